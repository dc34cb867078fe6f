//! `luo-trace check`: recorded updates against LUO's invariants.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args as ClapArgs, ValueEnum};
use luo_trace_common::hooks::Hook;
use luo_trace_common::text::Name;
use serde_json::{Value, json};

use super::{Journals, read_text};
use crate::chain::case::{Case, Conclusion, Judgement, Record};
use crate::exit::Exit;
use crate::expect::formats::{self, Check, Group};
use crate::expect::{Day, Expectations, MAX_FILE};
use crate::model::{Status, Verdict};

mod updates;

/// Options of `luo-trace check`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    journals: Journals,
    /// What the updates have to be like, as a TOML file
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Show every verdict, not only those that are not ok
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a person
    #[default]
    Text,
    /// One JSON object
    Json,
    /// KTAP version 1, as the kernel's own tests
    Ktap,
    /// JUnit's XML
    Junit,
    /// Annotations of GitHub Actions
    Github,
    /// SARIF 2.1.0, for code scanning
    Sarif,
}

/// Checks every journal and prints what came of it.
///
/// With `--format json` the output is one object, stable from version to version but for keys that are added:
///
/// - `result`: `held`, `violated` or `inconclusive`, over all journals;
/// - `updates`: the live updates that the journals tell of, in their order: `number` (LUO's own, or null), `fate`
///   (`completed`, `aborted`, `departed`: no record of its arrival, `arrived`: no record of its departure), `from` and `to` (the
///   boots on both sides, as their places in `journals`, from 1, or null), `basis` (what says that the one followed the
///   other: `number`, `count` or `clock`, or null), `files` (how many that arrived came to which end: `finished`,
///   `retrieved`, `unclaimed`, `pending`, `lost`, `unknown`) and `unclaimed` (the first of those that no process brought back:
///   `session`, `token`, `handler`, `fate`, `age_ns`);
/// - `findings`, `verdicts` and `doubts` over the updates, in the form of a journal's; `evidence` is `"boot/cpu:seq"`, the
///   boot as its place in `journals`, from 1;
/// - `repeated`: paths of journals that were left out, since another journal tells more of the same boot;
/// - `unreadable`: journals of a directory that could not be read, with `journal` (its path) and `reason`;
/// - `journals`: for each, in the order the boots ran, `journal` (its path), `boot_id`, `host` (the machine's name, or empty), `kernel_release`, `agent_version`,
///   `update_number` (or null), `runs`, `events`, `lost`, `undecoded`, `unknown_frames`, `ending` (text, or null where
///   the record just stops), `departed` (whether it ends in the jump), `damaged` (the number of damaged places), `damage`
///   (the first of them: `offset`, `reason`, `bytes`, `resumed`), `findings` and `verdicts` in the model's form, `doubts`
///   (sentences) and `result`;
/// - `checks`: the list that every other format shows: for each, `group` (`record`, `invariant` or `expectation`), `name`,
///   `answer` (`pass`, `skip`, `inconclusive` or `fail`) and `message`.
///
/// The exit status is 0 when all held, 1 when something is violated or not as expected, 3 when nothing is and something is
/// missing.
///
/// # Errors
/// Where a journal that was named cannot be read from its beginning, or none in a directory can; where the expectations cannot be read, or stdout cannot be written. Nothing
/// is printed but in the last case.
pub fn run(args: &Args) -> Result<Exit> {
    let text = |path| read_text(path, MAX_FILE, "a file of expectations");
    let text = args.expect.as_deref().map(text).transpose()?.unwrap_or_default();
    let expectations = Expectations::parse(&text).map_err(|error| {
        let file = args.expect.as_deref().unwrap_or(Path::new(""));
        anyhow!("{}: {error}", file.display())
    })?;
    let case = args.journals.case()?;
    let checks = expectations.check(&case, today(), &text);
    let result = formats::outcome(&checks);
    let mut out = super::stdout();
    match args.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &case_as_json(&case, &checks, result))?;
            writeln!(out)?;
        }
        Format::Text => {
            for record in &case.records {
                as_text(&mut out, record, args.all)?;
            }
            updates::as_text(&mut out, &case, args.all)?;
            if args.expect.is_some() {
                expected(&mut out, &checks, result)?;
            }
        }
        Format::Ktap => formats::ktap(&mut out, &checks)?,
        Format::Junit => formats::junit(&mut out, &checks)?,
        Format::Sarif => {
            let place = args.expect.as_ref().or(args.journals.journals.first());
            let place = place.map(|path| path.to_string_lossy()).unwrap_or_default();
            serde_json::to_writer_pretty(&mut out, &formats::sarif(&checks, &place))?;
            writeln!(out)?;
        }
        Format::Github => {
            let file = args.expect.as_deref().map(|path| path.display().to_string());
            formats::github(&mut out, &checks, file.as_deref())?;
        }
    }
    out.flush()?;
    Ok(match result {
        Conclusion::Held => Exit::Held,
        Conclusion::Violated => Exit::Violated,
        Conclusion::Inconclusive => Exit::Inconclusive,
    })
}

/// Today by the wall clock, in UTC.
fn today() -> Day {
    let today = time::OffsetDateTime::now_utc().date();
    Day {
        year: today.year(),
        month: today.month().into(),
        day: today.day(),
    }
}

/// What came of the expectations, and of everything together.
fn expected(out: &mut impl Write, checks: &[Check], result: Conclusion) -> io::Result<()> {
    writeln!(out, "Expectations")?;
    for check in checks.iter().filter(|check| check.group == Group::Expectation) {
        writeln!(out, "  {:<12} {}: {}", check.answer.name(), check.name, check.message)?;
    }
    let sum = match result {
        Conclusion::Held => "everything is as expected",
        Conclusion::Inconclusive => {
            "inconclusive: nothing is other than expected, and something is missing that could tell"
        }
        Conclusion::Violated => "not as expected",
    };
    writeln!(out, "\n  {sum}")
}

fn case_as_json(case: &Case, checks: &[Check], result: Conclusion) -> Value {
    let journals: Vec<_> = case.records.iter().map(as_json).collect();
    let repeated = case.repeated.iter().map(|path| path.display().to_string());
    json!({
        "result": result,
        "updates": case.chain.updates.iter().map(updates::as_json).collect::<Vec<_>>(),
        "findings": case.chain.findings,
        "verdicts": case.chain.verdicts,
        "doubts": case.doubts(),
        "repeated": repeated.collect::<Vec<_>>(),
        "unreadable": case.unreadable,
        "journals": journals,
        "checks": checks,
    })
}

fn as_json(record: &Record) -> Value {
    let judgement = &record.judgement;
    let Judgement { header, summary, .. } = judgement;
    json!({
        "journal": record.journal.display().to_string(),
        "boot_id": header.boot_id,
        "host": header.host.name,
        "kernel_release": header.kernel_release,
        "agent_version": header.agent_version,
        "update_number": header.update_number,
        "runs": judgement.runs,
        "events": summary.events,
        "lost": summary.lost,
        "undecoded": summary.errors,
        "unknown_frames": summary.unknown_frames,
        "ending": judgement.ending(),
        "departed": judgement.departed,
        "damaged": summary.damaged,
        "damage": summary.damage,
        "findings": judgement.findings,
        "verdicts": judgement.verdicts,
        "doubts": judgement.doubts(),
        "result": judgement.conclusion(),
    })
}

fn as_text(out: &mut impl Write, record: &Record, all: bool) -> io::Result<()> {
    let judgement = &record.judgement;
    let Judgement { header, summary, .. } = judgement;
    writeln!(out, "{}", record.journal.display())?;
    writeln!(
        out,
        "  boot      {}, Linux {}{}",
        shown(&header.boot_id),
        shown(&header.kernel_release),
        on_host(&header.host.name)
    )?;
    let ending = judgement.ending().unwrap_or_else(|| "none".into());
    writeln!(
        out,
        "  record    {} events, {} lost; end: {ending}",
        summary.events, summary.lost
    )?;
    for doubt in judgement.doubts() {
        writeln!(out, "  doubt     {doubt}")?;
    }
    for finding in &judgement.findings {
        writeln!(out, "  finding   {finding}")?;
    }
    table(out, &judgement.verdicts, all)?;
    let (held, of) = (judgement.with(Status::Ok).count(), judgement.verdicts.len());
    let unwatched = judgement
        .verdicts
        .iter()
        .filter(|verdict| verdict.is_unwatched())
        .count();
    write!(
        out,
        "\n  {}: {held} of {of} invariants hold",
        judgement.conclusion().name()
    )?;
    if unwatched > 0 {
        write!(out, ", {unwatched} not watched")?;
    }
    writeln!(out, "\n")
}

/// The host of this name, as it ends a line.
fn on_host(name: &str) -> String {
    match name {
        "" => String::new(),
        name => format!(", host {}", shown(name)),
    }
}

/// The verdicts that are not ok, or all of them.
fn table(out: &mut impl Write, verdicts: &[Verdict], all: bool) -> io::Result<()> {
    let shown = |verdict: &&Verdict| all || verdict.status != Status::Ok;
    if verdicts.iter().any(|verdict| shown(&verdict)) {
        writeln!(
            out,
            "\n  {:<24} {:<9} {:>8} {:>9} {:>12}",
            "invariant", "verdict", "ok", "violated", "undecidable"
        )?;
    }
    verdicts.iter().filter(shown).try_for_each(|verdict| row(out, verdict))
}

fn row(out: &mut impl Write, verdict: &Verdict) -> io::Result<()> {
    let Verdict {
        ok,
        violated,
        undecidable,
        ..
    } = verdict;
    let (id, status) = (verdict.invariant.id(), verdict.status.name());
    write!(out, "  {id:<24} {status:<9} {ok:>8} {violated:>9} {undecidable:>12}")?;
    if !verdict.missing_hooks.is_empty() {
        write!(out, "  not attached: {}", verdict.missing_hooks.join(", "))?;
    }
    if let Some(option) = switch(verdict) {
        write!(out, "  not watched: needs {option}")?;
    }
    writeln!(out)
}

/// The agent's option that would have watched it, where it needs hooks that are switched off.
fn switch(verdict: &Verdict) -> Option<String> {
    let off = |hook: &&Hook| verdict.switched_off_hooks.contains(&hook.id());
    let detail = Hook::ALL.iter().filter(off).map(|hook| hook.detail()).max()?;
    Some(format!("--kho {}", detail.name()))
}

/// Text from a file, with what could mislead a terminal escaped.
fn shown(text: &str) -> Name<128> {
    Name::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{End, Header, Summary};
    use crate::model::{Coverage, Model};

    fn record() -> Record {
        let header = Header {
            boot_id: "b".into(),
            kernel_release: "7.3\u{1b}[31m".into(),
            ..Header::default()
        };
        let end = Some(End {
            reason: "SIGTERM".into(),
            kernel_lost: 2,
        });
        let summary = Summary {
            events: 7,
            lost: 2,
            end,
            ..Summary::default()
        };
        let mut model = Model::new(&Coverage::all().without(Hook::Kexec));
        let findings = model.finish().to_vec();
        let judgement = Judgement {
            header,
            summary,
            runs: 1,
            departed: false,
            findings,
            verdicts: model.verdicts(),
        };
        Record {
            journal: "b.luoj".into(),
            judgement,
        }
    }

    fn text(all: bool) -> String {
        let mut out = Vec::new();
        as_text(&mut out, &record(), all).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_text_shows_what_is_not_ok_and_counts_the_rest() {
        let text = text(false);
        assert!(
            text.contains("7 events, 2 lost; end: SIGTERM") && text.contains("inconclusive: 32 of 34"),
            "{text}"
        );
        assert!(
            text.contains("freeze-no-return") && text.contains("not attached: kexec"),
            "{text}"
        );
        assert!(!text.contains("file-balance"), "{text}");
    }

    #[test]
    fn what_is_switched_off_is_shown_with_the_option_that_would_watch_it() {
        let mut record = record();
        let verdict = record
            .judgement
            .verdicts
            .iter_mut()
            .find(|verdict| verdict.status == Status::Unknown);
        let verdict = verdict.unwrap();
        verdict.missing_hooks.clear();
        verdict.switched_off_hooks = vec!["kho-key-add", "kho-preserve-pages"];
        let mut out = Vec::new();
        as_text(&mut out, &record, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("not watched: needs --kho keys"), "{text}");
        assert!(text.contains("32 of 34 invariants hold, 1 not watched"), "{text}");
    }

    #[test]
    fn every_verdict_is_shown_on_request() {
        assert!(text(true).contains("file-balance"));
    }

    #[test]
    fn a_header_cannot_send_codes_to_the_terminal() {
        assert!(text(false).contains("Linux 7.3\\u{1b}[31m"), "{}", text(false));
    }

    #[test]
    fn the_json_has_its_documented_keys() {
        let json = as_json(&record());
        assert_eq!(
            (&json["events"], &json["lost"], &json["result"]),
            (&7.into(), &2.into(), &"inconclusive".into())
        );
        assert_eq!(json["verdicts"][0]["invariant"], "session-name-unique");
        assert_eq!(json["verdicts"][0]["status"], "ok");
        assert_eq!(json["ending"], "SIGTERM");
    }

    #[test]
    fn what_is_no_journal_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "notes").unwrap();
        let args = Args {
            journals: Journals {
                journals: vec![file.path().into()],
                one_host: false,
            },
            expect: None,
            format: Format::Json,
            all: false,
        };
        let error = format!("{:#}", run(&args).unwrap_err());
        assert!(
            error.contains(&file.path().display().to_string()) && error.contains("not a luo-trace journal"),
            "{error}"
        );
    }
}
