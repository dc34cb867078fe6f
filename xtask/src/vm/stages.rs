//! Where the time of a scenario goes, by what its guest says on the console.

use std::time::{Duration, Instant};

use serde::Serialize;

/// What is being done for a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// QEMU starts and the first kernel boots.
    Boot,
    /// The agent starts, until the first step.
    Attach,
    /// The scenario's steps.
    Steps,
    /// From `reboot(KEXEC)` until the next kernel's init runs.
    Jump,
    /// The agent ends, and the guest powers off.
    Stop,
    /// The host compares what the guest left with what the scenario expects.
    Judge,
}

/// How long each stage took, in seconds of the host's clock; the stages of all the kernels of a scenario are added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Stages {
    boot: f64,
    attach: f64,
    steps: f64,
    jump: f64,
    stop: f64,
    judge: f64,
}

impl Stages {
    /// Each stage's name and seconds, in the order in which they come.
    pub(crate) fn all(&self) -> [(&'static str, f64); 6] {
        [
            ("boot", self.boot),
            ("attach", self.attach),
            ("steps", self.steps),
            ("jump", self.jump),
            ("stop", self.stop),
            ("judge", self.judge),
        ]
    }

    /// Adds to a stage.
    pub(crate) fn add(&mut self, stage: Stage, time: Duration) {
        let seconds = match stage {
            Stage::Boot => &mut self.boot,
            Stage::Attach => &mut self.attach,
            Stage::Steps => &mut self.steps,
            Stage::Jump => &mut self.jump,
            Stage::Stop => &mut self.stop,
            Stage::Judge => &mut self.judge,
        };
        *seconds += time.as_secs_f64();
    }
}

/// Measures stages one after the other.
pub(crate) struct Stopwatch {
    stage: Stage,
    since: Instant,
    stages: Stages,
}

impl Stopwatch {
    /// Begins with this stage.
    pub(crate) fn start(stage: Stage) -> Self {
        Self {
            stage,
            since: Instant::now(),
            stages: Stages::default(),
        }
    }

    /// From now on it is this stage, which may be the one that it was.
    pub(crate) fn enter(&mut self, stage: Stage) {
        let now = Instant::now();
        self.stages.add(self.stage, now - self.since);
        (self.stage, self.since) = (stage, now);
    }

    /// What has been measured up to now.
    pub(crate) fn stages(mut self) -> Stages {
        self.enter(self.stage);
        self.stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_stage_that_comes_again_is_added_up() {
        let mut stages = Stages::default();
        for (stage, seconds) in [(Stage::Attach, 2), (Stage::Jump, 1), (Stage::Attach, 3)] {
            stages.add(stage, Duration::from_secs(seconds));
        }
        let spent: Vec<_> = stages.all().into_iter().filter(|(_, seconds)| *seconds > 0.0).collect();
        assert_eq!(spent, [("attach", 5.0), ("jump", 1.0)]);
    }
}
