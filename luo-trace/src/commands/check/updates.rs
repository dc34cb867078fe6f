//! What `luo-trace check` says of live updates, over the journals of several boots.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{shown, table};
use crate::chain::case::Case;
use crate::chain::{Basis, Fate, Update};
use crate::model::Status;
use crate::text::units::span;

/// One live update; [`super::run`] says what its keys mean.
pub(super) fn as_json(update: &Update) -> Value {
    let from_one = |place: Option<usize>| place.map(|place| place + 1);
    let files = &update.files;
    let unclaimed = update.unclaimed.iter().map(|file| {
        json!({
            "session": file.session.to_string(),
            "token": file.token,
            "handler": file.handler.to_string(),
            "fate": file.fate.name(),
            "age_ns": file.age_ns,
        })
    });
    json!({
        "number": update.number,
        "fate": update.fate.name(),
        "from": from_one(update.from),
        "to": from_one(update.to),
        "basis": update.basis.map(Basis::name),
        "files": {
            "finished": files.finished,
            "retrieved": files.retrieved,
            "unclaimed": files.unclaimed,
            "pending": files.pending,
            "lost": files.lost,
            "unknown": files.unknown,
        },
        "unclaimed": unclaimed.collect::<Vec<_>>(),
    })
}

/// How many files that no process brought back are told one by one.
const UNCLAIMED_TOLD: usize = 8;

/// What the journals prove together, where they tell of a live update.
pub(super) fn as_text(out: &mut impl Write, case: &Case, all: bool) -> io::Result<()> {
    let chain = &case.chain;
    for path in &case.repeated {
        writeln!(
            out,
            "{}: left out, another journal tells more of this boot\n",
            path.display()
        )?;
    }
    for unreadable in &case.unreadable {
        writeln!(out, "left out, and what is in it is not known: {unreadable}\n")?;
    }
    if chain.updates.is_empty() {
        return Ok(());
    }
    writeln!(out, "Updates")?;
    for update in &chain.updates {
        one_as_text(out, update, case)?;
    }
    for doubt in case.doubts() {
        writeln!(out, "  doubt     {doubt}")?;
    }
    for finding in &chain.findings {
        writeln!(out, "  finding   {finding}")?;
    }
    table(out, &chain.verdicts, all)?;
    let held = chain.verdicts.iter().filter(|verdict| verdict.status == Status::Ok);
    write!(
        out,
        "\n  over the updates: {} of {} invariants hold",
        held.count(),
        chain.verdicts.len()
    )?;
    let unwatched = chain.verdicts.iter().filter(|verdict| verdict.is_unwatched()).count();
    if unwatched > 0 {
        write!(out, ", {unwatched} not watched")?;
    }
    writeln!(out, "\n\n{}", case.conclusion().name())
}

fn one_as_text(out: &mut impl Write, update: &Update, case: &Case) -> io::Result<()> {
    let number = update.number.map_or("?".into(), |number| number.to_string());
    let side = |place: Option<usize>| {
        let boot = place.and_then(|place| Some((place, case.chain.boots.get(place)?)));
        boot.map_or("no record".into(), |(place, boot)| {
            format!(
                "boot {} ({}, Linux {})",
                place + 1,
                shown(&boot.boot_id),
                shown(&boot.release)
            )
        })
    };
    let fate = update.fate.name();
    match update.fate {
        Fate::Aborted => writeln!(out, "  {number:<9} {fate}: {} went on", side(update.from))?,
        _ => writeln!(
            out,
            "  {number:<9} {fate}: {} -> {}",
            side(update.from),
            side(update.to)
        )?,
    }
    if let Some(basis) = update.basis.filter(|basis| *basis != Basis::Number) {
        writeln!(
            out,
            "            that they belong together rests on {}",
            basis.describe()
        )?;
    }
    let files = &update.files;
    let counts = [
        (files.finished, "retrieved and finished"),
        (files.retrieved, "retrieved, not finished"),
        (files.unclaimed, "finished, never retrieved"),
        (files.pending, "never asked for"),
        (files.lost, "left behind by the next update"),
        (files.unknown, "not known"),
    ];
    let counts = counts.iter().filter(|(files, _)| *files > 0);
    let counts: Vec<_> = counts.map(|(files, what)| format!("{files} {what}")).collect();
    if !counts.is_empty() {
        writeln!(out, "            files: {}", counts.join(", "))?;
    }
    for file in update.unclaimed.iter().take(UNCLAIMED_TOLD) {
        let (session, token, age) = (file.session, file.token, span(file.age_ns));
        let fate = file.fate.name();
        writeln!(
            out,
            "            {fate} for {age}: file {token:#x} of session \"{session}\" ({})",
            file.handler
        )?;
    }
    match update.unclaimed.len().checked_sub(UNCLAIMED_TOLD) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(out, "            and {more} more that no process brought back"),
    }
}
