//! Keeps what holds updates back up to date: by the policy's file, by what the model knows, and by an operator's orders.
//!
//! The programs in the kernel decide by themselves, from memory that lies here too; nothing waits for the agent, and the agent
//! waits for nothing here but a change of policy. What it does is in the record: see [`Note`].

use std::mem;
use std::sync::Arc;

use anyhow::{Result, bail};
use luo_trace_common::events::{
    FileOp, Header as EventHeader, POLICY_ADOPTED, POLICY_LOADED, POLICY_OFF, PolicyChange, PolicyDecision,
};
use luo_trace_common::policy::{Aspect, Decision, ImageBits, Mode, NEVER, NOT_COUNTED, Operation, Selected, Table};
use luo_trace_common::text::Name;
use zerocopy::FromZeros;

use crate::agent::live::Live;
use crate::event::{Body, Event};
use crate::model::{Finding, Id};
use crate::policy::orders::{Answer, Order, Standing, Taken};
use crate::policy::tell::Refusal;
use crate::policy::{Circumstances, Compiled, Policy, level};
use crate::status::policy::Policy as Shown;

mod log;
mod store;
#[cfg(test)]
mod tests;

pub use log::Log;
pub use store::Store;

/// What holds updates back: the programs in the kernel, as far as they are told anything.
pub trait Lsm {
    /// Has every decision made by this policy from now on, and gives its generation.
    ///
    /// # Errors
    /// Where it does not fit; then the policy before is still in force.
    fn enforce(&mut self, policy: &Compiled) -> Result<u64>;
    /// Ends it: from here on no call is decided.
    ///
    /// # Errors
    /// Where the kernel refuses that.
    fn release(&mut self) -> Result<()>;
    /// Whether it stays when the agent is gone, however that ends.
    ///
    /// # Errors
    /// Where it cannot be kept, or not be let go of.
    fn outlive(&mut self, outlives: bool) -> Result<()>;
    /// Why it would end with the agent, though it was made to stay; `None`: it stays, or need not.
    fn lapsed(&self) -> Option<String>;
    /// Removes what agents before left in force: this one's policy has taken its place.
    ///
    /// # Errors
    /// Where something of it cannot be removed.
    fn retire_others(&mut self) -> Result<()>;
    /// The agent lives, at this time in nanoseconds of `CLOCK_MONOTONIC`; [`NEVER`]: it ends in order.
    fn beat(&mut self, now: u64);
    /// Until when an operator holds the host, and lets everything pass.
    fn order(&mut self, held_until: u64, allowed_until: u64);
    /// How bad what is violated is: see [`level`].
    fn violated(&mut self, severity: u64);
    /// The rules that name what is preserved now.
    fn preserved(&mut self, selected: [Selected; Aspect::COUNT]);
    /// What is known of an image, by its id.
    fn judge(&mut self, image: u64, verdict: ImageBits);
}

/// A record of the agent's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Policy or an order changed.
    Change(Box<PolicyChange>),
    /// A rule that only the agent can judge applied to what a task did: the header tells who.
    Decision(EventHeader, Box<PolicyDecision>),
}

/// What policy is to be, and where it comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// The file.
    pub file: String,
}

/// What a lost agent left in the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Adopted {
    /// Until when the host was held, and everything let pass, in nanoseconds of `CLOCK_MONOTONIC`.
    pub held_until: u64,
    /// See `held_until`.
    pub allowed_until: u64,
    /// The worst severity of an invariant that it saw violated: see [`level`].
    pub violated: u64,
}

/// Policy on this host while an agent runs.
pub struct Enforcement {
    /// Or why there is none, so that nothing is ever refused.
    lsm: Result<Box<dyn Lsm>, String>,
    live: Arc<Live>,
    store: Option<Store>,
    boot_id: String,
    loaded: Loaded,
    /// See [`Policy::table_after_the_fact`].
    after: Option<Table>,
    generation: u64,
    standing: Standing,
    /// Why the orders are not kept, or not known.
    store_trouble: Option<String>,
    /// Why the file is not what is in force.
    file_trouble: Option<String>,
    /// Why the policy would not outlive the agent, though it has to.
    pins_trouble: Option<String>,
    /// The model may have changed since the programs were told.
    changed: bool,
    log: Log,
}

impl Enforcement {
    /// Takes over this host: what a lost agent left in the kernel (`adopted`), what was kept of its orders, and how bad what it
    /// saw violated was, are in force with the policy, from this moment. The notes tell so: the policy, and
    /// behind it every order that stands.
    ///
    /// # Errors
    /// Where the policy cannot be enforced, or cannot outlive the agent though it has to.
    pub fn begin(
        loaded: Loaded,
        lsm: Result<Box<dyn Lsm>, String>,
        adopted: Option<Adopted>,
        store: Option<Store>,
        live: Arc<Live>,
        boot_id: String,
        now: u64,
    ) -> Result<(Self, Vec<Note>)> {
        let (standing, trouble) = store
            .as_ref()
            .map_or_else(Default::default, |store| store.read(&boot_id, now));
        let standing = match adopted {
            Some(left) => Standing {
                violated: standing.violated.max(left.violated),
                ..standing.joined(left.held_until, left.allowed_until, now)
            },
            None => standing,
        };
        let mut enforcement = Self {
            lsm,
            live,
            store,
            boot_id,
            loaded: loaded.clone(),
            after: None,
            generation: 0,
            standing,
            store_trouble: trouble.map(|trouble| format!("{trouble:#}")),
            file_trouble: None,
            pins_trouble: None,
            changed: true,
            log: Log::start()?,
        };
        enforcement.log.say(enforcement.store_trouble.as_ref());
        enforcement.tell_orders();
        let mut notes = Vec::new();
        if adopted.is_some() {
            notes.push(enforcement.change(POLICY_ADOPTED, "what an agent that is gone left in force"));
        }
        enforcement.follow(now);
        notes.push(enforcement.swap(loaded)?);
        notes.extend(
            enforcement
                .standing
                .found()
                .into_iter()
                .map(|change| enforcement.complete(change)),
        );
        if let Ok(lsm) = &mut enforcement.lsm {
            lsm.retire_others()?;
        }
        enforcement.keep_orders();
        enforcement.show();
        Ok((enforcement, notes))
    }

    /// Puts another policy in the place of the one in force, at once for every decision.
    ///
    /// # Errors
    /// Why it cannot be; then the one before is still in force.
    pub fn swap(&mut self, loaded: Loaded) -> Result<Note> {
        let (mode, closed) = (loaded.policy.mode, loaded.policy.closed);
        let lsm = match &mut self.lsm {
            Ok(lsm) => lsm,
            Err(why) if mode == Mode::Enforce => bail!("nothing can be refused: {why}"),
            Err(_) => {
                self.loaded = loaded;
                return Ok(self.took_effect());
            }
        };
        if mode == Mode::Off {
            lsm.release()?;
            lsm.outlive(false)?;
            self.generation = 0;
        } else {
            // First what may fail, then what is seen.
            if closed {
                lsm.outlive(true)?;
            }
            let mut compiled = loaded.policy.compile();
            // What is preserved already counts from the first decision on.
            compiled.table.preserved = self.live.with_model(|model| loaded.policy.preserved_in(model));
            self.generation = lsm.enforce(&compiled)?;
            if !closed {
                lsm.outlive(false)?;
            }
        }
        self.loaded = loaded;
        Ok(self.took_effect())
    }

    fn took_effect(&mut self) -> Note {
        self.file_trouble = None;
        self.look_at_pins();
        self.changed = true;
        self.after = self.loaded.policy.table_after_the_fact();
        self.show();
        let what = match self.generation {
            0 => POLICY_OFF,
            _ => POLICY_LOADED,
        };
        self.change(what, &self.loaded.file)
    }

    /// The file holds no policy that could be enforced: what is in force stays.
    pub fn refuse(&mut self, why: &str) {
        let trouble = format!("the policy before stays in force, since the new one is refused: {why}");
        self.log.say(Some(&trouble));
        self.file_trouble = Some(trouble);
        self.show();
    }

    /// Carries out an order, and tells what became of it. What ended before it is [told](Self::expire) before it.
    ///
    /// # Errors
    /// Why nothing can be ordered here.
    pub fn take(&mut self, order: &Order, uid: u32, now: u64) -> Result<(Answer, Note), String> {
        if let Err(why) = &self.lsm {
            return Err(format!("nothing can be held or allowed: {why}"));
        }
        let Taken { mut told, change } = self.standing.take(order, uid, self.loaded.policy.mode, now);
        self.tell_orders();
        self.keep_orders();
        told.extend(self.store_trouble.clone());
        told.iter().for_each(|line| self.log.say(Some(line)));
        self.show();
        let note = self.complete(change);
        Ok((Answer { told }, note))
    }

    /// Takes in an event, and what it proved.
    pub fn observe(&mut self, event: &Event, findings: &[Finding]) -> Option<Note> {
        match &event.body {
            Body::PolicyChange(_) => return None,
            Body::PolicyDecision(..) => {
                if let Some(refusal) = Refusal::of(event) {
                    let id = Id::of_refusal(&self.boot_id, event.id(), event.header.ktime);
                    self.log.refusal(id, &refusal);
                }
                return None;
            }
            _ => self.changed = true,
        }
        let worst = findings.iter().map(|finding| level(finding.invariant.severity())).max();
        if worst > Some(self.standing.violated) {
            self.standing.violated = worst.unwrap_or_default();
            // Of these there are three at most in a boot.
            self.keep_orders();
            self.show();
        }
        match &event.body {
            Body::FilePreserve(file) if self.generation != 0 => self.judge_file(event.header, file),
            _ => None,
        }
    }

    /// Judges a file that was preserved by the rules that name its handler, which no program could know when it was asked.
    fn judge_file(&self, header: EventHeader, file: &FileOp) -> Option<Note> {
        let policy = &self.loaded.policy;
        let table = self.after.as_ref()?;
        let held = self.standing.hold.is_some();
        let circumstances = self
            .live
            .with_model(|model| Circumstances::of(model, self.standing.violated, held));
        let ruling = policy.after_the_fact(table, &header, file, &circumstances)?;
        let name = policy.rules().get(ruling.rule as usize).map(|rule| rule.name);
        let counted = |number: Option<u64>| number.unwrap_or(NOT_COUNTED);
        let decision = PolicyDecision {
            operation: Operation::FilePreserve as u32,
            decision: ruling.decision as u32,
            rule: ruling.rule,
            mode: policy.mode as u32,
            generation: self.generation,
            rule_name: name.unwrap_or_default(),
            session: file.session,
            unselected: 1 << Aspect::Uid as u32 | 1 << Aspect::Cgroup as u32,
            sessions: counted(circumstances.sessions),
            files: counted(circumstances.files),
            ..PolicyDecision::new_zeroed()
        };
        Some(Note::Decision(header, Box::new(decision)))
    }

    /// Everything that came is taken in: tells the programs what it comes to, and that the agent lives.
    pub fn follow(&mut self, now: u64) {
        let Ok(lsm) = &mut self.lsm else { return };
        lsm.beat(now);
        if !mem::take(&mut self.changed) {
            return;
        }
        lsm.violated(self.standing.violated);
        let policy = &self.loaded.policy;
        if names_what_is_preserved(policy) {
            lsm.preserved(self.live.with_model(|model| policy.preserved_in(model)));
        }
    }

    /// The agent lives, and is busy.
    pub fn beat(&mut self, now: u64) {
        if let Ok(lsm) = &mut self.lsm {
            lsm.beat(now);
        }
    }

    /// A second has passed: gives what to record of orders that came to their end. In the kernel they ended by themselves.
    pub fn tick(&mut self, now: u64) -> Vec<Note> {
        self.beat(now);
        if self.look_at_pins() {
            self.show();
        }
        self.log.tick();
        self.expire(now)
    }

    /// Whether what is to outlive the agent would is another matter than it was.
    fn look_at_pins(&mut self) -> bool {
        let lapsed = self.lsm.as_ref().ok().and_then(|lsm| lsm.lapsed());
        let changed = lapsed != self.pins_trouble;
        if changed {
            self.log.say(lapsed.as_ref());
        }
        self.pins_trouble = lapsed;
        changed
    }

    /// Lets go of orders that came to their end, and gives what to record of that.
    pub fn expire(&mut self, now: u64) -> Vec<Note> {
        let ended = self.standing.expire(now);
        if ended.is_empty() {
            return Vec::new();
        }
        self.tell_orders();
        self.keep_orders();
        self.show();
        let note = |Taken { told, change }: Taken| {
            told.iter().for_each(|line| self.log.say(Some(line)));
            self.complete(change)
        };
        ended.into_iter().map(note).collect()
    }

    /// What is known of the image of this id: the programs decide by it at once, where that one is in place.
    pub fn judge(&mut self, image: u64, verdict: ImageBits) {
        if let Ok(lsm) = &mut self.lsm {
            lsm.judge(image, verdict);
        }
    }

    /// Whether there are programs that can refuse.
    pub fn can_refuse(&self) -> bool {
        self.lsm.is_ok()
    }

    /// Waits until everything that was said is told.
    pub fn finish(self) {
        self.log.finish();
    }

    /// The agent ends in order. A closed policy stays in force with what is known now; of any other, nothing is left.
    ///
    /// # Errors
    /// Where it cannot be let go of.
    pub fn end(&mut self) -> Result<Option<Note>> {
        let stays = self.loaded.policy.closed && self.generation != 0;
        // From here on it is out of reach: nothing that is done until the end takes it for alive, or for lost.
        let Ok(mut lsm) = mem::replace(&mut self.lsm, Err("the agent ends".into())) else {
            return Ok(None);
        };
        if stays {
            lsm.beat(NEVER);
            return Ok(None);
        }
        lsm.release()?;
        lsm.outlive(false)?;
        let was_on = mem::take(&mut self.generation) != 0;
        Ok(was_on.then(|| self.change(POLICY_OFF, &self.loaded.file)))
    }

    fn tell_orders(&mut self) {
        let until = |order: &Option<_>| order.as_ref().map_or(0, crate::policy::orders::Entry::until);
        let (held, allowed) = (until(&self.standing.hold), until(&self.standing.allowance));
        if let Ok(lsm) = &mut self.lsm {
            lsm.order(held, allowed);
        }
    }

    fn keep_orders(&mut self) {
        let Some(store) = &self.store else {
            self.store_trouble =
                Some("orders are not kept for the next agent: there is no socket to keep them beside".into());
            return;
        };
        let kept = match self.standing == Standing::default() {
            true => store.remove().map(drop),
            false => store.write(&self.standing, &self.boot_id),
        };
        self.store_trouble = kept
            .err()
            .map(|error| format!("orders are not kept for the next agent: {error:#}"));
    }

    /// Shows readers and metrics what is in force.
    fn show(&self) {
        let Loaded { policy, file } = &self.loaded;
        let troubles = [&self.file_trouble, &self.store_trouble, &self.pins_trouble];
        let troubles = troubles.into_iter().flatten().cloned();
        let deaf = self.lsm.as_ref().err();
        let deaf = deaf.map(|why| format!("nothing is refused, nor told: {why}"));
        let shown = Shown {
            mode: policy.mode.name().into(),
            file: clean(file),
            rules: policy.rules().len() as u64,
            on_agent_loss: if policy.closed { "closed" } else { "open" }.into(),
            generation: self.generation,
            troubles: deaf.into_iter().chain(troubles).collect(),
            ..Shown::default()
        };
        self.live.set_policy(shown, self.standing.clone());
        self.live.metrics.set_policy(policy.mode, &decisions(policy));
    }

    fn change(&self, what: u32, text: &str) -> Note {
        let compiled = self.loaded.policy.compile();
        let asked = |operation: &&Operation| compiled.table.on[**operation as usize] != 0;
        let bits = Operation::ALL
            .iter()
            .filter(asked)
            .map(|operation| 1 << *operation as u32);
        self.complete(PolicyChange {
            what,
            mode: 0,
            generation: 0,
            until: 0,
            uid: 0,
            operations: bits.sum(),
            text: Name::new(text),
        })
    }

    fn complete(&self, change: PolicyChange) -> Note {
        Note::Change(Box::new(PolicyChange {
            mode: self.loaded.policy.mode as u32,
            generation: self.generation,
            ..change
        }))
    }
}

/// What rules may come to decide, so that it can be counted from 0.
fn decisions(policy: &Policy) -> Vec<(String, Operation, Decision)> {
    let no = match policy.mode {
        Mode::Enforce => Decision::Deny,
        _ => Decision::WouldDeny,
    };
    let rules = policy.rules().iter().flat_map(|rule| {
        let decision = if rule.deny { no } else { Decision::Audit };
        rule.on.iter().map(move |&on| (rule.name.to_string(), on, decision))
    });
    let own: &[&str] = if policy.closed {
        &["hold", "agent-loss"]
    } else {
        &["hold"]
    };
    let own = own
        .iter()
        .flat_map(|name| [Operation::KexecLoad, Operation::KexecReboot].map(|on| ((*name).to_owned(), on, no)));
    rules.chain(own).collect()
}

/// Whether a policy has a rule that tells images and reboots apart by what is preserved.
fn names_what_is_preserved(policy: &Policy) -> bool {
    let names = |aspect| move |rule: &crate::policy::Rule| rule.matches.names(aspect) || rule.unless.names(aspect);
    let rules = policy.rules();
    rules.iter().any(names(Aspect::Session)) || rules.iter().any(names(Aspect::Handler))
}

/// A file's path, with what could mislead a reader escaped.
fn clean(path: &str) -> String {
    Name::<256>::new(path).to_string()
}
