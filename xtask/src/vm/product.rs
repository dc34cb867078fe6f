//! Makes steps of a scenario's `product`: every rule with one operation, one thing in `match` and one condition, held against
//! calls that it is about and calls that it is not, in both modes. Pure.
//!
//! Where the scenario says that the condition holds, callers that a rule names are refused, and others pass; where it does not,
//! all of them pass. Of the rules with one condition no process is named by two, so that they are tried by one policy.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow, bail};
use luo_trace::policy::Policy;
use luo_trace_common::policy::{Aspect, Condition, Decision, Facts, Operation, Orders, Ruling, SEVERITIES, Selected};
use serde_json::{Value, json};
use testbed_guest::scenario::{EventPattern, Product, Scenario, Step};

/// A session that has this file under this token was opened by the steps before.
const BASE: (&str, &str) = ("base", "ram");
const TOKEN: u64 = 1;
/// For how many seconds the agent shows no sign of life where that is the condition: as `stale_after` says.
const SILENT: u64 = 1;
/// A file that is no kernel: what lets it pass fails all the same.
const NO_KERNEL: &str = "/scenario.json";

/// A policy under which everything passes.
const NO_RULES: &str = "mode = \"audit\"";

/// A kind of rule.
type Cell = (Operation, Aspect, Condition);

/// Replaces every `product` of a scenario by the steps it means, and expects the decisions that they lead to.
///
/// # Errors
/// A condition is none, or not so many rules are tried as the scenario says.
pub(super) fn expand(scenario: &mut Scenario) -> Result<()> {
    let mut made = Made::default();
    for steps in [&mut scenario.before, &mut scenario.after]
        .into_iter()
        .chain(&mut scenario.kernels)
    {
        for step in std::mem::take(steps) {
            match step {
                Step::Product(product) => steps.extend(made.steps(&product)?),
                step => steps.push(step),
            }
        }
    }
    let [so, not_so] = [true, false].map(|holds| &made.tried[&holds]);
    let (tried, wanted) = (so.intersection(not_so).count(), scenario.expect.rules_tried);
    if tried != wanted {
        bail!("its steps `product` try {tried} rules with and without their condition, and `rules_tried` is {wanted}");
    }
    scenario.expect.events.extend(made.decisions.into_values());
    Ok(())
}

/// What all steps of a scenario come to.
struct Made {
    /// How many sessions were named so far.
    sessions: u64,
    /// The rules that are tried while their condition holds, and while it does not.
    tried: BTreeMap<bool, BTreeSet<Cell>>,
    /// The decisions that must be recorded, by what they say.
    decisions: BTreeMap<String, EventPattern>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            sessions: 0,
            tried: [true, false].map(|holds| (holds, BTreeSet::new())).into(),
            decisions: BTreeMap::new(),
        }
    }
}

impl Made {
    fn steps(&mut self, product: &Product) -> Result<Vec<Step>> {
        let condition = Condition::from_name(&product.when)
            .ok_or_else(|| anyhow!("product: there is no condition {:?}", product.when))?;
        let cells: Vec<Cell> = cells(condition).collect();
        if let Some(tried) = self.tried.get_mut(&product.holds) {
            tried.extend(&cells);
        }
        let policy = policy(&cells, product.holds);
        // What is preserved is what tells loads and reboots apart, whoever asks for them: so these come one after the other.
        let mut steps = Vec::new();
        for callers in [
            &[None, Some(Aspect::Comm), Some(Aspect::Uid), Some(Aspect::Cgroup)][..],
            &[Some(Aspect::Session)],
            &[Some(Aspect::Handler)],
        ] {
            self.sessions += 1;
            let preserved = preserved(callers[0], self.sessions);
            let mut tries: Vec<_> = callers
                .iter()
                .filter_map(|&named| self.calls(product, &cells, named, &preserved.session))
                .collect();
            if tries.is_empty() {
                continue;
            }
            if condition == Condition::AgentStale && product.holds {
                tries.insert(0, json!({"pause-agent": {"silent_seconds": SILENT}}));
                tries.push(json!({"resume-agent": {}}));
            }
            steps.extend(preserved.begin);
            // What was told before a policy is taken counts from its first decision on.
            steps.push(json!({"both-modes": {"policy": policy, "steps": tries}}));
            steps.push(json!({"close-session": {"name": preserved.session}}));
            steps.push(json!({"agent-says": {"text": format!(r#""session":"{}","direction""#, preserved.session)}}));
        }
        Ok(serde_json::from_value(steps.into())?)
    }

    /// The calls of a process whom the rules with this aspect name; `None`: of nobody in particular. Nothing, where there is no
    /// such rule.
    fn calls(&mut self, product: &Product, cells: &[Cell], named: Option<Aspect>, session: &str) -> Option<Value> {
        let caller = match named {
            Some(Aspect::Comm) => json!({"comm": "named"}),
            Some(Aspect::Uid) => json!({"comm": "other", "uid": 1001}),
            Some(Aspect::Cgroup) => json!({"comm": "other", "cgroup": "/named.slice"}),
            Some(Aspect::Session | Aspect::Handler) | None => json!({"comm": "other"}),
        };
        let mut steps = Vec::new();
        for &operation in Operation::ALL {
            let asked: Vec<_> = cells.iter().filter(|(on, ..)| *on == operation).collect();
            let rule = asked.iter().find(|(_, aspect, _)| Some(*aspect) == named);
            if asked.is_empty() || rule.is_none() && named.is_some() {
                continue;
            }
            let refused = rule.filter(|_| product.holds);
            for no in [Decision::WouldDeny, Decision::Deny] {
                let decision = refused.map_or(Decision::Pass, |_| no);
                self.decided(operation, decision, &caller["comm"], refused.copied());
            }
            steps.extend(call(operation, product, refused.is_some(), named, session));
        }
        let mut guise = caller;
        guise["steps"] = steps.into();
        (guise["steps"] != json!([])).then(|| json!({ "as": guise }))
    }

    /// One more of these decisions is expected.
    fn decided(&mut self, operation: Operation, decision: Decision, comm: &Value, rule: Option<&Cell>) {
        let mut fields = json!({"operation": operation.name(), "decision": decision.name(), "comm": comm});
        if let Some(cell @ (.., condition)) = rule {
            fields["rule"] = name(cell).into();
            // That it is so was known, and not only taken for it. Of what is counted there are the numbers instead.
            if !matches!(condition, Condition::SessionsOver | Condition::FilesOver) {
                fields["because"] = condition.name().into();
            }
        }
        let pattern = self
            .decisions
            .entry(fields.to_string())
            .or_insert_with(|| EventPattern {
                boot: None,
                event: "policy-decision".into(),
                fields: fields.as_object().cloned().unwrap_or_default(),
                count: Some(0),
                at_least: None,
            });
        pattern.count = pattern.count.map(|count| count + 1);
    }
}

/// A session that is there while calls are tried.
struct Preserved {
    session: String,
    /// Steps that make it, and wait until the agent knows of it.
    begin: Vec<Value>,
}

/// The session that rules of this aspect name, or one with a file that they name, or one that no rule names.
fn preserved(named: Option<Aspect>, number: u64) -> Preserved {
    let session = match named {
        Some(Aspect::Session) => format!("named-{number}"),
        _ => format!("other-{number}"),
    };
    let size = "8 B";
    let preserve = match named {
        Some(Aspect::Handler) => {
            let device = json!({"node": "nvme", "name": session, "size": size, "seed": number});
            json!({"preserve-device": {"session": session, "token": TOKEN, "device": device}})
        }
        _ => {
            let memfd = json!({"name": session, "size": size, "seed": number});
            json!({"preserve": {"session": session, "token": TOKEN, "memfd": memfd}})
        }
    };
    let begin = vec![
        // The rules that were tried before may name it, too.
        json!({"reload-policy": {"policy": NO_RULES}}),
        json!({"create-session": {"name": session}}),
        preserve,
        json!({"agent-says": {"text": format!(r#""session":"{session}","token":"{TOKEN:#x}""#)}}),
    ];
    Preserved { session, begin }
}

/// The steps that make one call of which policy is asked.
fn call(operation: Operation, product: &Product, refused: bool, named: Option<Aspect>, session: &str) -> Vec<Value> {
    let fails = |passes: &str| if refused { "EPERM".to_owned() } else { passes.to_owned() };
    match operation {
        Operation::SessionCreate => {
            let name = match named {
                Some(Aspect::Session) => "new-named",
                _ => "new",
            };
            let create = json!({"create-session": {"name": name, "fails": refused.then_some("EPERM")}});
            let close = (!refused).then(|| json!({"close-session": {"name": name}}));
            [create].into_iter().chain(close).collect()
        }
        Operation::FilePreserve => {
            let (session, memfd) = match named {
                Some(Aspect::Session) => (session, session),
                _ => BASE,
            };
            let again = json!({"session": session, "token": TOKEN, "memfd": memfd, "fails": fails("EEXIST")});
            vec![json!({"preserve-again": again})]
        }
        Operation::KexecLoad => {
            let is_legacy = product.holds && product.when == Condition::LegacyImage.name();
            let (how, passes) = if is_legacy {
                ("legacy", "EADDRNOTAVAIL")
            } else {
                ("file", "ENOEXEC")
            };
            vec![json!({"load": {"how": how, "image": NO_KERNEL, "fails": fails(passes)}})]
        }
        Operation::KexecReboot => {
            let passes = product.reboot.map_or("EINVAL".into(), |error| error.to_string());
            vec![json!({"reboot": {"fails": fails(&passes)}})]
        }
    }
}

/// The rules with this condition that can ever decide anything.
fn cells(condition: Condition) -> impl Iterator<Item = Cell> {
    let all = Operation::ALL
        .iter()
        .flat_map(|&on| Aspect::ALL.iter().map(move |&aspect| (on, aspect)));
    all.map(move |(on, aspect)| (on, aspect, condition)).filter(can_refuse)
}

/// Whether a rule refuses a call that is all that it asks for: it may be no rule at all, and the agent's own ones come first.
fn can_refuse(cell: &Cell) -> bool {
    let Ok(policy) = Policy::read(&policy(&[*cell], true)) else {
        return false;
    };
    let &(operation, _, condition) = cell;
    let table = policy.compile().table;
    let facts = Facts {
        selected: [Selected {
            matched: 1,
            excepted: 0,
        }; Aspect::COUNT],
        yes: 1 << condition as u32,
        sessions: u64::MAX,
        files: u64::MAX,
        violated: SEVERITIES as u64,
        ..Facts::default()
    };
    let orders = Orders {
        held: condition == Condition::Held,
        stale: condition == Condition::AgentStale,
        ..Orders::default()
    };
    let ruling = table.rule(operation, table.applying(operation, &facts), orders);
    ruling
        == Ruling {
            decision: Decision::Deny,
            rule: 0,
        }
}

/// A policy of these rules.
fn policy(cells: &[Cell], condition_holds: bool) -> String {
    let stale_after = match cells.iter().any(|(.., condition)| *condition == Condition::AgentStale) && condition_holds {
        true => format!("stale_after = \"{SILENT}s\"\n"),
        false => String::new(),
    };
    let rules = cells.iter().map(|cell @ (on, aspect, condition)| {
        let value = match (aspect, on) {
            (Aspect::Comm, _) => "\"named\"",
            (Aspect::Uid, _) => "1001",
            (Aspect::Cgroup, _) => "\"/named.slice\"",
            (Aspect::Session, Operation::SessionCreate) => "\"new-named\"",
            (Aspect::Session, _) => "\"named-*\"",
            (Aspect::Handler, _) => "\"nvme-v1\"",
        };
        // The world of the scenario lies on either side of these, whichever session is there as well.
        let so = match condition {
            Condition::SessionsOver => "2",
            Condition::FilesOver => "3",
            Condition::InvariantViolated => "\"critical\"",
            _ => "true",
        };
        format!(
            "\n[[rule]]\nname = \"{}\"\non = \"{}\"\nmatch = {{ {} = {value} }}\nwhen = {{ {} = {so} }}\naction = \"deny\"\n",
            name(cell),
            on.name(),
            aspect.name(),
            condition.name()
        )
    });
    format!("mode = \"enforce\"\n{stale_after}{}", rules.collect::<String>())
}

/// The rule's name.
fn name((operation, aspect, condition): &Cell) -> String {
    format!("{}.{}.{}", operation.name(), aspect.name(), condition.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<Scenario> {
        let mut scenario = toml::from_str(&format!("summary = 'x'\nkexec = 'none'\n{text}")).unwrap();
        expand(&mut scenario).map(|()| scenario)
    }

    fn rules_on(operation: Operation, condition: Condition) -> Vec<Aspect> {
        let on = |(on, ..): &Cell| *on == operation;
        cells(condition).filter(on).map(|(_, aspect, _)| aspect).collect()
    }

    #[test]
    fn a_rule_that_is_refused_or_never_decides_is_left_out() {
        let but_for_handlers = &Aspect::ALL[..Aspect::Handler as usize];
        for on in [Operation::SessionCreate, Operation::FilePreserve] {
            assert_eq!(rules_on(on, Condition::Held), but_for_handlers);
            assert_eq!(rules_on(on, Condition::LegacyImage), []);
        }
        assert_eq!(
            rules_on(Operation::KexecLoad, Condition::Held),
            [],
            "the hold itself refuses"
        );
        assert_eq!(rules_on(Operation::KexecLoad, Condition::TargetIncompatible), []);
        assert_eq!(
            rules_on(Operation::KexecReboot, Condition::TargetIncompatible),
            Aspect::ALL
        );
    }

    #[test]
    fn a_rule_counts_when_it_was_tried_with_its_condition_and_without() {
        let product = |holds: bool| format!("{{ product = {{ when = 'held', holds = {holds} }} }}");
        let steps = |products: &str, tried| expanded(&format!("before = [{products}]\nexpect.rules_tried = {tried}"));
        let (so, both) = (product(true), format!("{}, {}", product(true), product(false)));
        steps(&so, 0).unwrap();
        steps(&both, 8).unwrap();
        let error = steps(&both, 9).unwrap_err().to_string();
        assert!(error.contains("try 8 rules"), "{error}");
        let error = expanded("before = [{ product = { when = 'hold', holds = true } }]").unwrap_err();
        assert!(error.to_string().contains("no condition \"hold\""), "{error}");
    }

    #[test]
    fn who_is_named_while_the_condition_holds_is_refused_and_nobody_else() {
        let decisions = |holds: bool| {
            let scenario = expanded(&format!(
                "before = [{{ product = {{ when = 'held', holds = {holds} }} }}]"
            ));
            let events = scenario.unwrap().expect.events.into_iter();
            let decided = events.map(|event| {
                let field = |name: &str| event.fields.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
                let said = ["operation", "comm", "decision", "rule"].map(field).join(" ");
                (said, event.count.unwrap())
            });
            decided.collect::<BTreeMap<_, _>>()
        };
        let so = decisions(true);
        for said in [
            "session-create other pass -",
            "session-create named deny session-create.comm.held",
            "session-create other would-deny session-create.uid.held",
            "file-preserve other deny file-preserve.session.held",
        ] {
            let times = if said.contains("pass") { 2 } else { 1 };
            assert_eq!(so.get(said), Some(&times), "{said} in {so:#?}");
        }
        assert_eq!(
            so.len(),
            2 * (1 + 2 * 4),
            "two operations, four ways to be named, each in both modes"
        );
        let not_so = decisions(false);
        assert_eq!(not_so.get("file-preserve other pass -"), Some(&8));
        assert!(not_so.keys().all(|said| said.contains("pass")), "{not_so:#?}");
    }
}
