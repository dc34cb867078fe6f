//! Compares one thing with what is expected of it.

use crate::expect::formats::{Answer, Check, Group};

/// Gathers what is wrong with one thing, and what cannot be told of it.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    wrong: Vec<String>,
    unknown: Vec<String>,
}

/// More sentences than this are only counted.
const MOST: usize = 8;

impl Comparison {
    /// It is not as it should be.
    pub(super) fn wrong(&mut self, why: String) {
        self.say(Answer::Fail, why);
    }

    /// It cannot be told.
    pub(super) fn unknown(&mut self, why: String) {
        self.say(Answer::Inconclusive, why);
    }

    /// The answer to one question, with what to say unless it is good.
    pub(super) fn say(&mut self, answer: Answer, why: String) {
        let list = match answer {
            Answer::Fail => &mut self.wrong,
            Answer::Inconclusive => &mut self.unknown,
            Answer::Pass | Answer::Skip => return,
        };
        list.push(why);
    }

    /// The check that comes of it; `good` is its message where all is well.
    pub(super) fn check(self, name: String, line: Option<usize>, good: String) -> Check {
        let (answer, mut reasons) = match (self.wrong.is_empty(), self.unknown.is_empty()) {
            (false, _) => (Answer::Fail, self.wrong),
            (true, false) => (Answer::Inconclusive, self.unknown),
            (true, true) => (Answer::Pass, vec![good]),
        };
        let more = reasons.len().saturating_sub(MOST);
        reasons.truncate(MOST);
        let mut message = reasons.join("; ");
        if more > 0 {
            message += &format!("; and {more} more");
        }
        Check {
            group: Group::Expectation,
            name,
            answer,
            message,
            findings: Vec::new(),
            line,
        }
    }
}
