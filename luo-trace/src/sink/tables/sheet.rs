//! One table as Apache Parquet.
//!
//! A row is taken apart by its JSON form, so that both forms of a table tell the same. Of a column the format wants the values that are
//! there, and for each place how deep it is defined: a null has no value, and where an array is, its beginning is told from its rest.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

use crate::report::rows::{Column, Row, Type};

/// How many rows are a row group: they wait in memory.
const GROUP: usize = 1 << 16;

/// How deep a value of a plain column is defined.
const PLAIN: i16 = 1;
/// How deep in a column of objects: an array that is empty, an object that is null, and a value that is one.
const EMPTY: i16 = 1;
const NO_OBJECT: i16 = 2;
const NO_VALUE: i16 = 3;
const IN_OBJECT: i16 = 4;

/// A file of Parquet, and the rows that are still to go into it.
#[derive(Debug)]
pub(super) struct Sheet {
    columns: &'static [Column],
    leaves: Vec<Leaf>,
    rows: usize,
    file: SerializedFileWriter<File>,
}

impl Sheet {
    /// One with these columns, in a file that is empty.
    pub(super) fn new(columns: &'static [Column], file: File) -> Result<Self> {
        let schema = format!("message row {{ {} }}", schema(columns));
        let schema = parse_message_type(&schema).context("the table's columns cannot be told in Parquet")?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("luo-trace ", env!("CARGO_PKG_VERSION")).into())
            .build();
        Ok(Self {
            columns,
            leaves: leaves(columns),
            rows: 0,
            file: SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))?,
        })
    }

    /// Adds a row.
    pub(super) fn row(&mut self, row: &impl Row) -> Result<()> {
        let Value::Object(mut values) = serde_json::to_value(row).context("a row has no JSON form")? else {
            bail!("a row is no object");
        };
        let mut leaves = self.leaves.iter_mut();
        for (name, kind) in self.columns {
            let value = values.remove(*name).unwrap_or_default();
            let fits = match kind {
                Type::Objects(columns) => {
                    let of_column: Vec<_> = leaves.by_ref().take(columns.len()).collect();
                    objects(of_column, columns, value)
                }
                _ => leaves.next().is_some_and(|leaf| leaf.put(value, PLAIN, PLAIN - 1, 0)),
            };
            if !fits {
                bail!("{name} does not fit its column");
            }
        }
        if let Some(name) = values.keys().next() {
            bail!("the table has no column {name}");
        }
        self.rows += 1;
        match self.rows >= GROUP {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// Brings what waits into the file.
    fn write(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        self.rows = 0;
        let mut group = self.file.next_row_group()?;
        for leaf in &mut self.leaves {
            let mut column = group.next_column()?.context("the table has fewer columns")?;
            leaf.write(&mut column)?;
            column.close()?;
        }
        group.close()?;
        Ok(())
    }

    /// Brings everything into the file, and ends it.
    pub(super) fn close(mut self) -> Result<()> {
        self.write()?;
        self.file.close()?;
        Ok(())
    }
}

/// Puts an array of objects into the leaves of its columns; gives whether it fits them.
fn objects(mut leaves: Vec<&mut Leaf>, columns: &[Column], value: Value) -> bool {
    let items = match value {
        Value::Array(items) => items,
        Value::Null => {
            return leaves
                .iter_mut()
                .all(|leaf| leaf.put(Value::Null, IN_OBJECT, EMPTY - 1, 0));
        }
        _ => return false,
    };
    if items.is_empty() {
        return leaves.iter_mut().all(|leaf| leaf.put(Value::Null, IN_OBJECT, EMPTY, 0));
    }
    items.into_iter().enumerate().all(|(place, mut item)| {
        let repeats = i16::from(place > 0);
        let missing = if item.is_object() { NO_VALUE } else { NO_OBJECT };
        let mut of_columns = leaves.iter_mut().zip(columns);
        of_columns.all(|(leaf, (name, _))| {
            let value = item.get_mut(name).map(Value::take).unwrap_or_default();
            leaf.put(value, IN_OBJECT, missing, repeats)
        })
    })
}

/// What waits of a column that has values itself.
#[derive(Debug)]
struct Leaf {
    values: Values,
    defined: Vec<i16>,
    /// Of a column in objects: 0 where a row begins.
    repeats: Option<Vec<i16>>,
}

#[derive(Debug)]
enum Values {
    Text(Vec<ByteArray>),
    Integer(Vec<i64>),
    Boolean(Vec<bool>),
}

impl Leaf {
    fn new(kind: Type, in_objects: bool) -> Self {
        Self {
            values: match kind {
                Type::Integer => Values::Integer(Vec::new()),
                Type::Boolean => Values::Boolean(Vec::new()),
                Type::Text | Type::Objects(_) => Values::Text(Vec::new()),
            },
            defined: Vec::new(),
            repeats: in_objects.then(Vec::new),
        }
    }

    /// Adds a value that is defined this deep where it is one, and else that deep; gives whether it is of the column's type.
    fn put(&mut self, value: Value, there: i16, missing: i16, repeats: i16) -> bool {
        let depth = if value.is_null() { missing } else { there };
        match (&mut self.values, value) {
            (_, Value::Null) => {}
            (Values::Text(values), Value::String(text)) => values.push(text.into_bytes().into()),
            (Values::Integer(values), Value::Number(number)) => match number.as_i64() {
                Some(number) => values.push(number),
                None => return false,
            },
            (Values::Boolean(values), Value::Bool(is)) => values.push(is),
            _ => return false,
        }
        self.defined.push(depth);
        if let Some(all) = &mut self.repeats {
            all.push(repeats);
        }
        true
    }

    /// Brings everything into the column, and forgets it.
    fn write(&mut self, column: &mut SerializedColumnWriter<'_>) -> Result<()> {
        let (defined, repeats) = (Some(self.defined.as_slice()), self.repeats.as_deref());
        match &mut self.values {
            Values::Text(values) => {
                column.typed::<ByteArrayType>().write_batch(values, defined, repeats)?;
                values.clear();
            }
            Values::Integer(values) => {
                column.typed::<Int64Type>().write_batch(values, defined, repeats)?;
                values.clear();
            }
            Values::Boolean(values) => {
                column.typed::<BoolType>().write_batch(values, defined, repeats)?;
                values.clear();
            }
        }
        self.defined.clear();
        self.repeats.iter_mut().for_each(Vec::clear);
        Ok(())
    }
}

/// The columns that have values themselves, in the order in which Parquet has them.
fn leaves(columns: &[Column]) -> Vec<Leaf> {
    let of = |(_, kind): &Column| match kind {
        Type::Objects(columns) => columns.iter().map(|(_, kind)| Leaf::new(*kind, true)).collect(),
        kind => vec![Leaf::new(*kind, false)],
    };
    columns.iter().flat_map(of).collect()
}

/// Columns in the language of Parquet's schemas. An array has the three levels that the format's specification asks for.
fn schema(columns: &[Column]) -> String {
    let column = |(name, kind): &Column| match kind {
        Type::Text => format!("optional binary {name} (STRING);"),
        Type::Integer => format!("optional int64 {name};"),
        Type::Boolean => format!("optional boolean {name};"),
        Type::Objects(columns) => {
            let columns = schema(columns);
            format!(
                "optional group {name} (LIST) {{ repeated group list {{ optional group element {{ {columns} }} }} }}"
            )
        }
    };
    columns.iter().map(column).collect()
}
