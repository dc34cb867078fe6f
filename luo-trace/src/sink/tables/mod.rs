//! Tables in files: the rows of [`crate::report::rows`], as lines of JSON or as Apache Parquet.

mod sheet;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use self::sheet::Sheet;
use crate::report::rows::Row;
use crate::report::when;

/// The form of a table's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A JSON object a line
    #[default]
    Jsonl,
    /// Apache Parquet, packed with Snappy
    Parquet,
}

impl Form {
    /// The extension of its files.
    const fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

/// The files that rows go to.
#[derive(Debug)]
pub struct Tables<'a> {
    dir: &'a Path,
    form: Form,
    partition: bool,
    open: BTreeMap<PathBuf, Out>,
}

impl<'a> Tables<'a> {
    /// Tables in this directory: a file for each, or with `partition` one for each host and day.
    pub fn new(dir: &'a Path, form: Form, partition: bool) -> Self {
        Self {
            dir,
            form,
            partition,
            open: BTreeMap::new(),
        }
    }

    /// Has a table be there, if without rows.
    ///
    /// # Errors
    /// Its file cannot be made.
    pub fn exists<R: Row>(&mut self) -> Result<()> {
        match self.partition {
            true => Ok(()),
            false => self.out::<R>("", None).map(drop),
        }
    }

    /// Adds a row to its table.
    ///
    /// # Errors
    /// The row's file cannot be written.
    pub fn row<R: Row>(&mut self, row: &R) -> Result<()> {
        let dir = self.dir;
        let out = self.out::<R>(&row.origin().host, row.time_unix_ns())?;
        let written = match out {
            Out::Lines(file) => line(file, row),
            Out::Sheet(sheet) => sheet.row(row),
        };
        written.with_context(|| format!("cannot write the table {} in {}", R::TABLE, dir.display()))
    }

    /// Brings everything into the files, and ends them.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn close(&mut self) -> Result<()> {
        for (path, out) in std::mem::take(&mut self.open) {
            let closed = match out {
                Out::Lines(mut file) => file.flush().map_err(Into::into),
                Out::Sheet(sheet) => sheet.close(),
            };
            closed.with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Where a host's row of this time goes.
    fn out<R: Row>(&mut self, host: &str, time: Option<i64>) -> Result<&mut Out> {
        let extension = self.form.extension();
        let path = match self.partition {
            false => self.dir.join(format!("{}.{extension}", R::TABLE)),
            true => {
                let time = time.and_then(|time| u64::try_from(time).ok());
                let day = time.map_or_else(|| "unknown".into(), |time| when(time)[..10].to_owned());
                let part = format!("host={}/day={day}/part.{extension}", plain(host));
                self.dir.join(R::TABLE).join(part)
            }
        };
        let cannot = || format!("cannot write {}", path.display());
        if !self.open.contains_key(&path) {
            fs::create_dir_all(path.parent().unwrap_or(self.dir)).with_context(cannot)?;
            let file = new(&path).with_context(cannot)?;
            let out = match self.form {
                Form::Jsonl => Out::Lines(BufWriter::new(file)),
                Form::Parquet => Out::Sheet(Box::new(Sheet::new(R::COLUMNS, file).with_context(cannot)?)),
            };
            self.open.insert(path.clone(), out);
        }
        self.open.get_mut(&path).with_context(cannot)
    }
}

/// Makes a file at this path, or where there is one, as hosts of one name have one directory, under the first name with a number that is
/// free.
fn new(path: &Path) -> io::Result<File> {
    let mut number = 1;
    let mut free = path.to_owned();
    loop {
        match File::create_new(&free) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                number += 1;
                let [stem, extension] =
                    [path.file_stem(), path.extension()].map(|part| part.unwrap_or_default().display());
                free = path.with_file_name(format!("{stem}-{number}.{extension}"));
            }
            made => return made,
        }
    }
}

/// One file.
#[derive(Debug)]
enum Out {
    Lines(BufWriter<File>),
    Sheet(Box<Sheet>),
}

fn line(file: &mut impl Write, row: &impl Row) -> Result<()> {
    serde_json::to_writer(&mut *file, row).context("a row has no JSON form")?;
    Ok(file.write_all(b"\n")?)
}

/// A host's name as one of a directory.
fn plain(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    match name.trim_matches('.') {
        "" => "unknown".into(),
        name => name.chars().map(plain).collect(),
    }
}
