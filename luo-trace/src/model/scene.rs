//! An event with what it is about and how far it can be relied on: what invariants are judged by.

use std::borrow::Cow;

use luo_trace_common::events::{self as abi, FileCall};

use super::counts::{Direction, HandlerId};
use super::finding::{Evidence, Finding, Id, Subject};
use super::invariants::Invariant;
use super::objects::Session;
use crate::event::{Body, Event, EventId};

/// The epoch of what was not seen whole.
pub(super) const TAINTED: u32 = 0;

/// The epoch of an operation that was under way when a walk over the kernel's lists taught what it found: nothing that is
/// known is known from before it, and nothing that it tells is certain.
pub(super) const STRADDLES: u32 = u32::MAX;

/// When an event happened, and how much of what led to it was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The event's time: for an operation, its end.
    pub(super) at: u64,
    /// When the operation began, if that was seen.
    pub(super) start: Option<u64>,
    pub(super) id: EventId,
    /// The epoch now.
    pub(super) epoch: u32,
    /// Whether what the event tells can be relied on from here.
    pub(super) clear: bool,
    /// Whether nothing was lost since the operation began.
    pub(super) whole: bool,
}

impl Moment {
    /// The epoch of an object that is seen from this moment on.
    pub(super) fn stamp(&self) -> u32 {
        if self.clear { self.epoch } else { TAINTED }
    }
}

/// An event, and what it is about, before it takes effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) event: &'a Event,
    pub(super) moment: Moment,
    /// The session it is about, if that is known. For a create it is none: the session is new.
    pub(super) session: Option<&'a Session>,
    pub(super) handler: HandlerId,
}

impl Scene<'_> {
    /// Whether all that matters about an object was seen.
    pub(super) fn knows(&self, epoch: u32) -> bool {
        epoch == self.moment.epoch
    }

    /// The session, where it was seen from its beginning.
    pub(super) fn known_session(&self) -> Option<&Session> {
        self.session.filter(|s| self.knows(s.epoch))
    }

    /// Whether this is an operation on the session of this serial number; a callback is only a part of one, and a retrieve that fails
    /// has found none, or asked for one of that name that is gone.
    pub(super) fn is_operation_on(&self, serial: u64) -> bool {
        let is_one = match &self.event.body {
            Body::FileCallback(..) => false,
            Body::SessionRetrieve(p) => p.outcome.is_ok(),
            _ => true,
        };
        is_one && self.session.is_some_and(|s| s.serial == serial)
    }

    /// Whether it is an operation on a session that was not met before.
    pub(super) fn is_stranger(&self) -> bool {
        self.session.is_none() && self.event.body.session().is_some_and(|s| s.id != 0)
    }

    /// What this event proves, with it as the last piece of evidence.
    pub(super) fn finding(
        &self,
        invariant: Invariant,
        object: Subject,
        expected: impl Into<Cow<'static, str>>,
        seen: impl Into<Cow<'static, str>>,
        evidence: &[EventId],
    ) -> Finding {
        Finding {
            id: Id::default(),
            invariant,
            object,
            expected: expected.into(),
            seen: seen.into(),
            advice: invariant.advice(),
            evidence: evidence
                .iter()
                .copied()
                .chain([self.moment.id])
                .map(Evidence::from)
                .collect(),
            time_ns: self.moment.at,
        }
    }

    /// Whether the kernel has serialized everything: no operation on files is under way.
    pub(super) fn serialized(&self) -> bool {
        matches!(&self.event.body, Body::SessionSerialize(p) if p.outcome.is_ok())
    }
}

/// Which way the session of an operation goes, where the operation alone tells.
pub(super) fn direction(body: &Body) -> Option<Direction> {
    use FileCall::{CanFinish, Finish, Freeze, Preserve, Retrieve, Unfreeze, Unpreserve};
    Some(match body {
        Body::SessionCreate(_)
        | Body::FilePreserve(_)
        | Body::FilesUnpreserve(_)
        | Body::FilesFreeze(_)
        | Body::FilesUnfreeze(_)
        | Body::FileCallback(Preserve | Unpreserve | Freeze | Unfreeze, _) => Direction::Outgoing,
        Body::SessionRetrieve(_)
        | Body::FileRetrieve(_)
        | Body::FilesFinish(_)
        | Body::FilesDeserialize(_)
        | Body::FileCallback(Retrieve | CanFinish | Finish, _) => Direction::Incoming,
        Body::SessionRelease(p) if p.direction == abi::OUTGOING => Direction::Outgoing,
        Body::SessionRelease(p) if p.direction == abi::INCOMING => Direction::Incoming,
        _ => return None,
    })
}
