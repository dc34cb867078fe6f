//! One table as Apache Parquet.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::report::rows::{Column, Row, Type};

/// How many rows are made columns at a time.
const BATCH: usize = 4096;
/// How many rows are a row group: they wait in memory, packed.
const GROUP: usize = 1 << 17;

/// A file of Parquet, and the rows that are still to go into it.
pub(super) struct Sheet {
    rows: Decoder,
    waiting: usize,
    file: ArrowWriter<File>,
}

impl fmt::Debug for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sheet")
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl Sheet {
    /// One with these columns, in a file that is empty.
    pub(super) fn new(columns: &[Column], file: File) -> Result<Self> {
        let schema = Arc::new(Schema::new(fields(columns)));
        // A row with a key that is no column is an error, rather than a table that lacks something.
        let rows = ReaderBuilder::new(Arc::clone(&schema))
            .with_strict_mode(true)
            .build_decoder()?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(GROUP))
            .set_created_by(concat!("luo-trace ", env!("CARGO_PKG_VERSION")).into())
            .build();
        Ok(Self {
            rows,
            waiting: 0,
            file: ArrowWriter::try_new(file, schema, Some(properties))?,
        })
    }

    /// Adds a row.
    pub(super) fn row(&mut self, row: &impl Row) -> Result<()> {
        self.rows
            .serialize(std::slice::from_ref(row))
            .context("a row does not fit its table")?;
        self.waiting += 1;
        if self.waiting >= BATCH {
            self.write()?;
        }
        Ok(())
    }

    /// Brings what waits into the file's buffers.
    fn write(&mut self) -> Result<()> {
        self.waiting = 0;
        let Some(batch) = self.rows.flush().context("rows do not fit their table")? else {
            return Ok(());
        };
        Ok(self.file.write(&batch)?)
    }

    /// Brings everything into the file, and ends it.
    pub(super) fn close(mut self) -> Result<()> {
        self.write()?;
        self.file.close()?;
        Ok(())
    }
}

/// Columns as Arrow has them.
fn fields(columns: &[Column]) -> Fields {
    let field = |(name, kind): &Column| Field::new(*name, data_type(*kind), true);
    columns.iter().map(field).collect()
}

fn data_type(kind: Type) -> DataType {
    match kind {
        Type::Text => DataType::Utf8,
        Type::Integer => DataType::Int64,
        Type::Boolean => DataType::Boolean,
        Type::Objects(columns) => {
            let object = Field::new("item", DataType::Struct(fields(columns)), true);
            DataType::List(Arc::new(object))
        }
    }
}
