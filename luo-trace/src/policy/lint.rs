//! What the author of a policy cannot have meant: rules that never apply, or that another one always comes before.

use luo_trace_common::policy::{Aspect, Condition, Mode, Operation};

use super::{Place, Policy, Problem, Rule, Selection, Sessions};

/// The operations that are about an image.
const OF_IMAGE: [Operation; 2] = [Operation::KexecLoad, Operation::KexecReboot];
/// The conditions that are told of an image by looking into it, after it was loaded.
const LOOKED_FOR: [Condition; 2] = [Condition::TargetIncompatible, Condition::CmdlineMissingLiveupdate];

impl Policy {
    /// What its author should look at again, in the order of the file.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        if self.mode == Mode::Off && !self.rules.is_empty() {
            let text = "mode is off: no rule is looked at; audit tells what would be refused";
            warnings.push(problem(self.rules[0].places.rule, text));
        }
        for (number, rule) in self.rules.iter().enumerate() {
            warnings.extend(partly_dead(rule));
            warnings.extend(own_rules_first(self, rule));
            warnings.extend(odd_unknown(rule));
            warnings.extend(idle_exception(rule));
            warnings.extend(too_late(rule));
            warnings.extend(self.shadowed(number, rule));
        }
        warnings.sort_by_key(|problem| problem.place);
        warnings
    }

    /// Where another rule always comes before this one.
    fn shadowed(&self, number: usize, rule: &Rule) -> Vec<Problem> {
        let mut found: Vec<(&Rule, Vec<Operation>)> = Vec::new();
        for &operation in rule.on.iter().filter(|&&operation| dead(rule, operation).is_none()) {
            let mut others = self.rules.iter().enumerate();
            let first = others.find(|&(other, wider)| {
                let before = wider.deny && !rule.deny || wider.deny == rule.deny && other < number;
                before && wider.covers(rule, operation)
            });
            let Some((_, wider)) = first else { continue };
            match found.iter_mut().find(|(other, _)| other.name == wider.name) {
                Some((_, operations)) => operations.push(operation),
                None => found.push((wider, vec![operation])),
            }
        }
        let told = found.into_iter().map(|(wider, operations)| {
            let (name, on, line) = (wider.name, listed(&operations), wider.places.rule.line);
            let why = match (wider.deny, rule.deny) {
                (true, false) => "refuses those calls already, so that this audit never counts",
                _ => "comes first for all of those calls, so that this rule never decides",
            };
            problem(rule.places.rule, format!("on {on}, rule {name} (line {line}) {why}"))
        });
        told.collect()
    }
}

/// What is refused: rules that can never apply, and those that cannot be decided when the call is made.
pub(super) fn refuse(policy: &Policy) -> Vec<Problem> {
    let mut problems = Vec::new();
    for rule in &policy.rules {
        problems.extend(undecidable(rule));
        let reasons: Vec<_> = rule.on.iter().map(|&operation| dead(rule, operation)).collect();
        if let [Some((place, why)), ..] = &reasons[..]
            && reasons.iter().all(Option::is_some)
        {
            problems.push(problem(*place, format!("rule {} can never apply: {why}", rule.name)));
        }
        if is_excepted(&rule.matches, &rule.unless) {
            let text = format!("rule {} can never apply: unless names all that match names", rule.name);
            problems.push(problem(rule.places.unless, text));
        }
    }
    problems
}

/// What a rule asks about a file that is not known when it is to be refused, or not at all.
fn undecidable(rule: &Rule) -> Option<Problem> {
    if !rule.on.contains(&Operation::FilePreserve) {
        return None;
    }
    let by = |aspect| rule.matches.names(aspect) || rule.unless.names(aspect);
    let (place, why) = match rule.matches.names(Aspect::Handler) {
        false if rule.unless.names(Aspect::Handler) => (
            rule.places.unless,
            "unless.handler cannot be told on file-preserve: the handler is chosen later; name the handlers in match, and audit",
        ),
        true if rule.deny => (
            rule.places.matches,
            "match.handler can only audit on file-preserve: the handler is chosen after the last moment to refuse; refuse by \
             session, or refuse the image (kexec-load)",
        ),
        true if by(Aspect::Uid) || by(Aspect::Cgroup) => (
            rule.places.matches,
            "match.handler on file-preserve is told after the fact, when the caller's uid and cgroup are not known: leave them out",
        ),
        _ => return None,
    };
    Some(problem(place, format!("rule {}: {why}", rule.name)))
}

/// Why a rule never applies to an operation, and where it says what is not so.
fn dead(rule: &Rule, operation: Operation) -> Option<(Place, String)> {
    let when = rule.places.when;
    let on = operation.name();
    if operation == Operation::SessionCreate && rule.matches.names(Aspect::Handler) {
        let why = format!("a handler is never known on {on}: a new session has no file");
        return Some((rule.places.matches, why));
    }
    let of_image = |condition: &&Condition| **condition == Condition::LegacyImage || LOOKED_FOR.contains(*condition);
    if let Some(condition) = rule.when.simple.iter().find(of_image)
        && !OF_IMAGE.contains(&operation)
    {
        return Some((when, format!("{} is about an image, and {on} is not", condition.name())));
    }
    let looked_for = rule
        .when
        .simple
        .iter()
        .find(|condition| LOOKED_FOR.contains(condition))?;
    let passes = !rule.applies_unknown(operation);
    let name = looked_for.name();
    if passes && operation == Operation::KexecLoad {
        let why =
            format!("{name} is never known on {on}: an image is looked into after it was loaded; ask on kexec-reboot");
        return Some((when, why));
    }
    if passes && rule.when.names(Condition::LegacyImage) {
        return Some((when, format!("{name} is never known of a legacy image: leave it out")));
    }
    None
}

/// Operations of a rule to which it never applies, though it does to others.
fn partly_dead(rule: &Rule) -> Vec<Problem> {
    let dead = rule
        .on
        .iter()
        .filter_map(|&operation| Some((operation, dead(rule, operation)?)));
    let told = dead.map(|(operation, (_, why))| {
        let text = format!("rule {} never applies on {}: {why}", rule.name, operation.name());
        problem(rule.places.on, text)
    });
    told.collect()
}

/// Conditions under which the agent's own rules come first, or that cannot be.
fn own_rules_first(policy: &Policy, rule: &Rule) -> Vec<Problem> {
    let mut found = Vec::new();
    let of_image = rule.on.iter().any(|operation| OF_IMAGE.contains(operation));
    if of_image && rule.when.names(Condition::Held) {
        found.push("held: while the host is held, the hold itself refuses images and reboots, and this rule never decides there");
    }
    if rule.when.names(Condition::AgentStale) {
        match policy.closed {
            true if of_image => found.push(
                "agent-stale: on_agent_loss is closed, which itself refuses images and reboots then, and this rule never decides \
                 there",
            ),
            true => {}
            false => found.push(
                "agent-stale: on_agent_loss is open, so policy ends with the agent: this applies only while an agent that \
                 still runs hangs",
            ),
        }
    }
    let told = found.into_iter().map(|text| problem(rule.places.when, text));
    told.collect()
}

/// Conditions that are never known, in a rule that takes that for a yes.
fn odd_unknown(rule: &Rule) -> Option<Problem> {
    let looked_for = rule
        .when
        .simple
        .iter()
        .find(|condition| LOOKED_FOR.contains(condition))?
        .name();
    if rule.on.contains(&Operation::KexecLoad) && rule.applies_unknown(Operation::KexecLoad) {
        let text = format!(
            "{looked_for} is never known on kexec-load, and unknown = \"applies\" makes that a yes for every image: ask on \
             kexec-reboot"
        );
        return Some(problem(rule.places.unknown, text));
    }
    if rule.when.names(Condition::LegacyImage) && rule.applies_unknown(Operation::KexecReboot) {
        let text = format!("{looked_for} is never known of a legacy image, which counts as a yes here: leave it out");
        return Some(problem(rule.places.when, text));
    }
    None
}

/// An exception that no caller can come under.
fn idle_exception(rule: &Rule) -> Option<Problem> {
    // Of images, `session` and `handler` are about all that is preserved: two values may both be so.
    let one_value =
        |aspect: &Aspect| *aspect <= Aspect::Cgroup || !rule.on.iter().any(|operation| OF_IMAGE.contains(operation));
    let both = |aspect: &&Aspect| rule.matches.names(**aspect) && rule.unless.names(**aspect);
    let aspect = Aspect::ALL.iter().filter(|aspect| one_value(aspect)).filter(both);
    let apart = aspect
        .copied()
        .find(|&aspect| !rule.matches.meets(&rule.unless, aspect))?;
    let text = format!("unless.{0} excepts nothing: match.{0} names other values", apart.name());
    Some(problem(rule.places.unless, text))
}

/// A refusal that waits for the last moment, though its conditions are known before.
fn too_late(rule: &Rule) -> Option<Problem> {
    let late = rule.deny && rule.on.contains(&Operation::KexecReboot) && !rule.on.contains(&Operation::KexecLoad);
    let known = !LOOKED_FOR.iter().any(|&condition| rule.when.names(condition));
    let text = "refuses on kexec-reboot alone, when services are stopped already, what it could refuse on kexec-load: name both";
    (late && known).then(|| problem(rule.places.on, format!("rule {} {text}", rule.name)))
}

impl Rule {
    /// Whether it applies to every call to which a narrower rule applies.
    pub(super) fn covers(&self, narrower: &Self, operation: Operation) -> bool {
        let (wide, narrow) = (&self.when, &narrower.when);
        let over = |wide: Option<u64>, narrow: Option<u64>| {
            wide.is_none_or(|wide| narrow.is_some_and(|narrow| wide <= narrow))
        };
        let asks_no_more = wide.simple.iter().all(|&condition| narrow.names(condition))
            && over(wide.sessions_over, narrow.sessions_over)
            && over(wide.files_over, narrow.files_over)
            && wide
                .violated
                .is_none_or(|wide| narrow.violated.is_some_and(|narrow| wide <= narrow));
        let asks_nothing =
            self.matches.is_empty() && self.unless.is_empty() && Condition::ALL.iter().all(|&c| !wide.names(c));
        self.on.contains(&operation)
            && self.is_after_the_fact(operation) == narrower.is_after_the_fact(operation)
            && asks_no_more
            && is_matched(&narrower.matches, &self.matches)
            && (self.unless.is_empty() || is_excepted(&self.unless, &narrower.unless))
            // What is not known must not keep this one away and let the other one apply.
            && (asks_nothing || self.applies_unknown(operation) || !narrower.applies_unknown(operation))
    }
}

/// Whether all that `narrow` selects is selected by `wide`, too.
fn is_matched(narrow: &Selection, wide: &Selection) -> bool {
    let named = Aspect::ALL.iter().filter(|&&aspect| wide.names(aspect));
    named
        .into_iter()
        .all(|&aspect| narrow.names(aspect) && wide.covers(narrow, aspect))
}

/// Whether all that `narrow` selects is left out by `unless`, which leaves out nothing where it names nothing.
fn is_excepted(narrow: &Selection, unless: &Selection) -> bool {
    !unless.is_empty() && is_matched(narrow, unless)
}

impl Selection {
    /// Whether each value of a narrower one is one of these.
    fn covers(&self, narrower: &Self, aspect: Aspect) -> bool {
        fn all<V>(narrow: &[V], wide: &[V], covers: impl Fn(&V, &V) -> bool) -> bool {
            narrow.iter().all(|narrow| wide.iter().any(|wide| covers(wide, narrow)))
        }
        match aspect {
            Aspect::Comm => all(&narrower.comm, &self.comm, PartialEq::eq),
            Aspect::Uid => all(&narrower.uid, &self.uid, PartialEq::eq),
            Aspect::Cgroup => all(&narrower.cgroup, &self.cgroup, |wide, narrow| narrow.starts_with(wide)),
            Aspect::Session => all(&narrower.session, &self.session, Sessions::cover),
            Aspect::Handler => all(&narrower.handler, &self.handler, PartialEq::eq),
        }
    }

    /// Whether anything has a value that both name.
    fn meets(&self, other: &Self, aspect: Aspect) -> bool {
        fn any<V>(these: &[V], those: &[V], covers: impl Fn(&V, &V) -> bool) -> bool {
            these
                .iter()
                .any(|this| those.iter().any(|that| covers(this, that) || covers(that, this)))
        }
        match aspect {
            Aspect::Comm => any(&self.comm, &other.comm, PartialEq::eq),
            Aspect::Uid => any(&self.uid, &other.uid, PartialEq::eq),
            Aspect::Cgroup => any(&self.cgroup, &other.cgroup, |wide, narrow| narrow.starts_with(wide)),
            Aspect::Session => any(&self.session, &other.session, Sessions::cover),
            Aspect::Handler => any(&self.handler, &other.handler, PartialEq::eq),
        }
    }
}

fn problem(place: Place, text: impl Into<String>) -> Problem {
    Problem {
        place,
        text: text.into(),
    }
}

fn listed(operations: &[Operation]) -> String {
    operations
        .iter()
        .map(|operation| operation.name())
        .collect::<Vec<_>>()
        .join(", ")
}
