//! Whether an update arrived, under which number, and in a kernel that can take it.

use super::ledger::{Account, Breach};
use super::{Basis, Crossing, SOON_NS};
use crate::model::Subject;
use crate::text::errno;

/// `ENOENT`: what reading in gives where a file's handler is not there. Mirrors `luo_file_deserialize_one` in
/// `kernel/liveupdate/luo_file.c` (7.3).
const NO_HANDLER: i64 = -2;

/// LUO's number goes up by one from boot to boot.
pub(super) fn number(crossing: &Crossing, account: &mut Account) {
    let (Some(from), Some(to)) = (crossing.from, crossing.to) else {
        return account.doubt();
    };
    match (from.boot.update_number, to.boot.update_number) {
        // By the clock alone it may as well be a cold boot.
        _ if crossing.update.basis == Some(Basis::Clock) => account.doubt(),
        (Some(before), Some(after)) if before.checked_add(1) == Some(after) => account.hold(),
        (Some(before), Some(after)) if crossing.update.direct => account.violate(Breach {
            object: Subject::Update,
            expected: format!("the next kernel is number {}", before.saturating_add(1)).into(),
            seen: format!("it is number {after}").into(),
            evidence: crossing.evidence(),
            time_ns: crossing.moment(),
        }),
        // A kernel that does not tell LUO's number may tell KHO's count.
        _ if crossing.update.basis == Some(Basis::Count) => account.hold(),
        _ => account.doubt(),
    }
}

/// An update that departs arrives. Where only the records tell, nothing after the departure proves nothing; a cold boot does.
pub(super) fn arrived(crossing: &Crossing, account: &mut Account) {
    if crossing.to.is_some() {
        return account.hold();
    }
    let cold = crossing
        .next
        .filter(|next| next.boot.update_number == Some(0) && next.boot.kexec_count.is_none());
    let (Some(from), Some(next), Some(freeze)) = (crossing.from, cold, crossing.from.and_then(|from| from.boot.freeze))
    else {
        return account.doubt();
    };
    let zero = |boot: &super::Boot| boot.clock.realtime_ns.checked_sub(boot.clock.monotonic_ns);
    let departed = zero(from.boot).map(|zero| zero.saturating_add(freeze.end));
    let after = zero(next.boot)
        .zip(departed)
        .and_then(|(began, departed)| began.checked_sub(departed));
    match after.filter(|&after| after <= SOON_NS) {
        Some(after) => account.violate(Breach {
            object: Subject::Update,
            expected: "the next kernel takes over".into(),
            seen: format!(
                "the machine booted cold, {} s after it had departed",
                after / 1_000_000_000
            )
            .into(),
            evidence: crossing.evidence(),
            time_ns: crossing.moment(),
        }),
        None => account.doubt(),
    }
}

/// The next kernel knows LUO's format, or there would be no record of it, and the handlers of what came. A handler that is not
/// registered when the sessions are read in makes that fail. What was told before the jump is not told again.
pub(super) fn compatible(crossing: &Crossing, account: &mut Account) {
    let Some(to) = crossing.to else { return };
    let left = crossing.from.zip(crossing.attempt());
    if left.is_some_and(|(from, attempt)| from.boot.foretold(attempt)) {
        return;
    }
    let boot = to.boot;
    let Some((result, id)) = boot.known.unreadable else {
        if boot.deserialize.is_some_and(|span| span.ok) {
            account.hold();
        }
        return;
    };
    let mut missing: Vec<_> = boot
        .incoming
        .iter()
        .flat_map(|session| session.files.values())
        .collect();
    missing.retain(|file| !file.handler.is_empty() && !boot.handlers.contains(&file.handler));
    missing.sort_by_key(|file| file.handler);
    let Some(file) = missing.first().filter(|_| result == NO_HANDLER && boot.known.handlers) else {
        return;
    };
    account.violate(Breach {
        object: Subject::Update,
        expected: format!("the next kernel has the handler \"{}\"", file.handler).into(),
        seen: format!(
            "it has not, and reading in what came failed with {}",
            errno::result(result)
        )
        .into(),
        evidence: vec![to.evidence(id)],
        time_ns: boot.deserialize.map_or(boot.latest, |span| span.end),
    });
}
