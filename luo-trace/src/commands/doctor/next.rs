//! What an operator does next, by what was found: in the order in which it is to be done.

use anyhow::Result;

use crate::kernel::preflight::Obstacle;
use crate::status::Status;

/// The steps: first what keeps the host from being traced, then the agent, its policy, and what stands in a live update's way. `agent` is the
/// state of the one that runs, or why it cannot be had.
pub(super) fn steps(
    obstacles: &[Obstacle],
    reason: Option<&str>,
    agent: &Result<Option<Status>>,
    objections: &[String],
) -> Vec<String> {
    if !obstacles.is_empty() {
        return obstacles.iter().map(ToString::to_string).collect();
    }
    let mut steps: Vec<String> = reason.map(str::to_owned).into_iter().collect();
    match agent {
        Err(error) => steps.push(format!("the agent that runs here does not tell its state: {error:#}")),
        Ok(None) => steps.push(
            "no agent is running: start it by `systemctl enable --now luo-trace.service`, or `luo-trace agent --journal DIR`".into(),
        ),
        Ok(Some(status)) => steps.extend(of_agent(status)),
    }
    steps.extend(
        objections
            .iter()
            .map(|objection| format!("before a live update, see to this: {objection}")),
    );
    if let Ok(Some(status)) = agent {
        steps.extend(of_image(status));
    }
    steps
}

/// What its agent lacks.
fn of_agent(status: &Status) -> Vec<String> {
    let mut steps = status.troubles.clone();
    match &status.policy {
        None => steps.push(
            "the agent has no policy, and refuses nothing: name one in /etc/luo-trace/agent.toml, such as \
             policy = \"/usr/share/luo-trace/policies/safe-defaults.toml\", and try it before by `luo-trace policy test`"
                .into(),
        ),
        Some(policy) => {
            steps.extend(policy.troubles.iter().cloned());
            if policy.mode == "audit" {
                steps.push("the policy only tells what it would refuse: set mode = \"enforce\" in its file when that is right".into());
            }
        }
    }
    steps
}

/// What is to be done about the image that is loaded, or that is not.
fn of_image(status: &Status) -> Option<String> {
    let preserved = super::outgoing(status).count();
    match super::would_lose(status) {
        Some(lost) if !lost.is_empty() => Some(format!(
            "the image that is loaded would lose {} sessions: take it out by `kexec --unload`, and ask `luo-trace preflight --kernel IMAGE` \
             before another is loaded",
            lost.len()
        )),
        Some(_) => None,
        None if preserved > 0 => Some("before an image is loaded, ask `luo-trace preflight --kernel IMAGE`".into()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Session;
    use crate::status::policy::Policy;

    fn with_session() -> Status {
        Status {
            sessions: vec![Session {
                name: "vm".into(),
                direction: "outgoing".into(),
                ..Session::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn what_keeps_the_host_from_being_traced_comes_before_all_else() {
        let steps = steps(
            &[Obstacle::NoBpf, Obstacle::LuoOff],
            None,
            &Ok(None),
            &["it is locked".into()],
        );
        assert_eq!(steps.len(), 2);
        assert!(
            steps[0].contains("CONFIG_BPF_SYSCALL") && steps[1].contains("liveupdate=on"),
            "{steps:?}"
        );
    }

    #[test]
    fn a_host_without_an_agent_is_told_how_to_start_one_and_then_what_forbids_loading() {
        let steps = steps(&[], None, &Ok(None), &["kexec_load_disabled is 1".into()]);
        assert!(steps[0].contains("systemctl enable --now"), "{steps:?}");
        assert!(steps[1].ends_with("kexec_load_disabled is 1"), "{steps:?}");
        assert_eq!(steps.len(), 2);
    }

    #[test]
    fn an_agent_that_may_not_be_asked_is_not_taken_for_none() {
        let steps = steps(&[], None, &Err(anyhow::anyhow!("permission denied")), &[]);
        assert_eq!(
            steps,
            ["the agent that runs here does not tell its state: permission denied"]
        );
    }

    #[test]
    fn an_agent_is_given_a_policy_that_enforces_and_then_nothing_is_left_to_do() {
        let mut status = Status::default();
        let next = |status: &Status| steps(&[], None, &Ok(Some(status.clone())), &[]);
        assert!(next(&status)[0].contains("safe-defaults.toml"));
        status.policy = Some(Policy {
            mode: "audit".into(),
            ..Policy::default()
        });
        assert!(next(&status)[0].contains("enforce"));
        status.policy = Some(Policy {
            mode: "enforce".into(),
            ..Policy::default()
        });
        assert_eq!(next(&status), [""; 0]);
    }

    #[test]
    fn an_image_that_would_lose_sessions_is_to_be_taken_out_and_one_that_carries_is_not() {
        let mut status = with_session();
        assert!(of_image(&status).unwrap().contains("before an image is loaded"));
        status.image = Some("legacy".into());
        assert!(of_image(&status).unwrap().contains("would lose 1 sessions"));
        status.image = Some("carries".into());
        assert!(
            of_image(&status).unwrap().contains("before an image is loaded"),
            "it was not looked into"
        );
        status.image_verdict = Some(crate::policy::tell::ImageVerdict {
            outcome: "carries".into(),
            command_line: "carries".into(),
            ..Default::default()
        });
        assert_eq!(of_image(&status), None);
        status.image_verdict.as_mut().unwrap().command_line = "loses".into();
        assert!(of_image(&status).unwrap().contains("kexec --unload"));
    }
}
