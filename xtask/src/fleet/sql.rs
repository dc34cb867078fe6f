//! `cargo xtask sql`: whether two engines answer an operator's questions alike over the tables that `luo-trace export` makes of a fleet.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::hosts::{self, Host};
use crate::check::{cargo, run as done};
use crate::run;
use crate::setup::{self, Need, python};
use crate::vm::guest::workspace;

/// What asks, in Python.
const ASK: &str = include_str!("ask.py");
/// Where the questions stand.
const QUESTIONS: &str = "luo-trace/docs/fleet.md";
/// The engines, by the names of their packages.
const ENGINES: [&str; 2] = ["duckdb", "chdb"];
/// The tables that are asked.
const TABLES: [&str; 5] = ["events", "findings", "updates", "sessions", "files"];
/// How far two numbers with a fraction may be apart, as part of the larger one: sums of them depend on their order.
const ALIKE: f64 = 1e-9;

/// The options of `cargo xtask sql`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How many hosts
    #[arg(long, value_name = "N", default_value_t = 200)]
    hosts: usize,
    /// Print each answer
    #[arg(long)]
    show: bool,
}

/// What an engine gave for one question.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    rows: Option<Vec<Vec<Value>>>,
    #[serde(default)]
    error: Option<String>,
    seconds: f64,
}

/// A question: what it asks, and how in SQL.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    title: String,
    query: String,
}

/// Makes the fleet's journals, exports them, and asks both engines.
///
/// # Errors
/// Two answers differ, a question has none, or something cannot be run.
pub(crate) fn command(args: &Args) -> Result<()> {
    ensure!(args.hosts >= hosts::LEAST, "at least {} hosts are needed", hosts::LEAST);
    setup::ensure(&[Need::Bpf])?;
    let python = python::with(&ENGINES)?;
    done(cargo(&["build", "--quiet", "--release", "--bin", "luo-trace"]))?;
    let dir = tempfile::tempdir().context("no directory for the fleet")?;
    let (journals, tables) = (dir.path().join("journals"), dir.path().join("tables"));
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = 0;
    for number in 0..args.hosts {
        let host = Host::new(number, 7, &mut random);
        bytes += host.write(&journals.join(&host.name))?;
    }
    let began = Instant::now();
    run::output(
        Command::new(workspace().join("target/release/luo-trace"))
            .args(["export", "--format", "parquet", "--output"])
            .args([&tables, &journals]),
    )?;
    let exported = began.elapsed();
    let text = fs::read_to_string(workspace().join(QUESTIONS)).context("cannot read the questions")?;
    let questions = questions(&text);
    ensure!(!questions.is_empty(), "{QUESTIONS} has no questions in SQL");
    let of = |engine: &str| ask(&python, engine, &tables, &questions);
    let answers = [of(ENGINES[0])?, of(ENGINES[1])?];
    let mut wrong = 0;
    for (number, question) in questions.iter().enumerate() {
        let pair = answers.each_ref().map(|answers| answers.get(number));
        let verdict = compare(pair);
        wrong += usize::from(verdict.is_err());
        match verdict {
            Ok(rows) => println!("ok      {} ({rows} rows)", question.title),
            Err(why) => println!("FAILED  {}: {why}", question.title),
        }
        if args.show
            && let Some(rows) = pair[0].and_then(|answer| answer.rows.as_ref())
        {
            for row in rows {
                println!("        {}", Value::from(row.clone()));
            }
        }
    }
    let size = |table: &str| fs::metadata(tables.join(format!("{table}.parquet"))).map_or(0, |file| file.len());
    let sizes: u64 = TABLES.iter().map(|table| size(table)).sum();
    let seconds = |of: &[Answer]| of.iter().map(|answer| answer.seconds).sum::<f64>();
    println!(
        "{} hosts, {:.1} MB of journals, {:.1} MB of Parquet in {:.1} s; all questions in {:.2} s by {} and {:.2} s by {}",
        args.hosts,
        bytes as f64 / 1e6,
        sizes as f64 / 1e6,
        exported.as_secs_f64(),
        seconds(&answers[0]),
        ENGINES[0],
        seconds(&answers[1]),
        ENGINES[1],
    );
    match wrong {
        0 => Ok(()),
        wrong => bail!("{wrong} of {} questions are not answered alike", questions.len()),
    }
}

/// The questions in a document: each block of SQL, under the sentence before it.
fn questions(text: &str) -> Vec<Question> {
    let mut questions = Vec::new();
    let mut title = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "```sql" {
            let query: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            questions.push(Question {
                title: title.trim_end_matches(':').to_owned(),
                query: query.join("\n"),
            });
        } else if !line.is_empty() {
            title = line;
        }
    }
    questions
}

/// Has an engine answer all questions.
fn ask(python: &Path, engine: &str, tables: &Path, questions: &[Question]) -> Result<Vec<Answer>> {
    let cannot = || format!("cannot ask {engine}");
    let mut child = Command::new(python)
        .args(["-c", ASK, engine])
        .arg(tables)
        .args(TABLES)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(cannot)?;
    let queries: Vec<_> = questions.iter().map(|question| &question.query).collect();
    let mut stdin = child.stdin.take().with_context(cannot)?;
    stdin
        .write_all(serde_json::to_string(&queries)?.as_bytes())
        .with_context(cannot)?;
    drop(stdin);
    let told = child.wait_with_output().with_context(cannot)?;
    ensure!(
        told.status.success(),
        "{engine} failed ({}); what it says is above",
        told.status
    );
    serde_json::from_slice(&told.stdout).with_context(|| format!("{engine} gives no answers"))
}

/// How many rows both give; an error says how they differ.
fn compare(answers: [Option<&Answer>; 2]) -> Result<usize, String> {
    let mut rows = Vec::new();
    for (engine, answer) in ENGINES.iter().zip(answers) {
        let answer = answer.ok_or(format!("{engine} did not answer"))?;
        match (&answer.rows, &answer.error) {
            (Some(of), None) => rows.push(of),
            (_, error) => return Err(format!("{engine} says {}", error.clone().unwrap_or_default())),
        }
    }
    let [one, other] = rows[..] else {
        return Err("there are not two answers".into());
    };
    if one.is_empty() {
        return Err("it has no rows: the made-up fleet should have some".into());
    }
    if one.len() != other.len() {
        return Err(format!(
            "{} rows by {}, {} by {}",
            one.len(),
            ENGINES[0],
            other.len(),
            ENGINES[1]
        ));
    }
    let alike = |(one, other): (&Vec<Value>, &Vec<Value>)| {
        one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
    };
    match one.iter().zip(other).find(|pair| !alike(*pair)) {
        None => Ok(one.len()),
        Some((one, other)) => Err(format!(
            "{} by {}, {} by {}",
            Value::from(one.clone()),
            ENGINES[0],
            Value::from(other.clone()),
            ENGINES[1]
        )),
    }
}

/// Whether two values are the same, but for the rounding of numbers with a fraction.
fn alike(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() <= ALIKE * one.abs().max(other.abs()),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(rows: Value) -> Answer {
        serde_json::from_value(json!({"rows": rows, "seconds": 0.0})).expect("an answer")
    }

    #[test]
    fn a_question_is_the_sentence_before_its_query() {
        let found = questions("# Head\n\nWhich hosts?\n\n```sql\nSELECT host\nFROM updates\n```\n\nText.\n");
        let [question] = &found[..] else { panic!("{found:?}") };
        assert_eq!(question.title, "Which hosts?");
        assert_eq!(question.query, "SELECT host\nFROM updates");
    }

    #[test]
    fn answers_are_alike_up_to_the_rounding_of_fractions() {
        let same = [json!([["a", 1, 0.3]]), json!([["a", 1, 0.300_000_000_000_000_04]])].map(answer);
        assert_eq!(compare(same.each_ref().map(Some)), Ok(1));
        for other in [
            json!([["a", 2, 0.3]]),
            json!([["b", 1, 0.3]]),
            json!([["a", 1, 0.31]]),
            json!([["a", 1, null]]),
            json!([]),
        ] {
            let pair = [json!([["a", 1, 0.3]]), other].map(answer);
            assert!(compare(pair.each_ref().map(Some)).is_err(), "{pair:?}");
        }
    }

    #[test]
    fn no_rows_are_no_answer() {
        let pair = [json!([]), json!([])].map(answer);
        assert!(compare(pair.each_ref().map(Some)).is_err());
        assert!(compare([Some(&pair[0]), None]).is_err());
    }
}
