//! Reads the guest's serial console line by line: the guest's own messages, and the kernel's troubles.
//!
//! Nothing here does I/O: lines go in, and the end of the scenario comes out.

use std::collections::VecDeque;

use testbed_guest::protocol::Message;
use testbed_guest::scenario::Scenario;

use super::stages::Stage;

/// How many lines before a trouble are shown with it, and how many after it at most.
const BEFORE: usize = 12;
const AFTER: usize = 60;

/// What a line of the console says.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// The guest's init speaks.
    Message(Message),
    /// The guest's init spoke, but what came cannot be read.
    Torn,
    /// The kernel is in trouble.
    Trouble(Trouble),
    /// Anything else.
    Other,
}

/// What the kernel can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Panic,
    Oops,
    Lockup,
    Stall,
    Warning,
}

/// How each trouble begins, after the kernel's time stamp; the first that fits names it.
const BEGINNINGS: [(&str, Trouble); 15] = [
    ("Kernel panic - not syncing", Trouble::Panic),
    ("BUG: ", Trouble::Oops),
    ("Oops", Trouble::Oops),
    ("kernel BUG at ", Trouble::Oops),
    ("Internal error: ", Trouble::Oops),
    ("general protection fault", Trouble::Oops),
    ("Unable to handle kernel ", Trouble::Oops),
    ("UBSAN: ", Trouble::Oops),
    ("watchdog: BUG: soft lockup", Trouble::Lockup),
    ("watchdog: CPU", Trouble::Lockup),
    ("INFO: task ", Trouble::Lockup),
    ("rcu: INFO: ", Trouble::Stall),
    ("INFO: rcu_", Trouble::Stall),
    ("WARNING: ", Trouble::Warning),
    ("INFO: trying to register non-static key", Trouble::Warning),
];

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Trouble::Panic => "the kernel panicked",
            Trouble::Oops => "the kernel hit a bug",
            Trouble::Lockup => "the kernel locked up",
            Trouble::Stall => "RCU stalled",
            Trouble::Warning => "the kernel warned, which this scenario does not allow",
        }
    }
}

/// How a scenario ended, as far as the console tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The guest did everything and is gone.
    Done,
    /// The kernel panicked that had to, and the machine is to boot cold.
    Crashed,
    /// Why it failed.
    Failed(String),
    /// It was not done when its time was over: what was heard last.
    Late(String),
}

/// Follows one scenario's console.
pub(super) struct Watch {
    boots: u32,
    allow_warnings: bool,
    /// What the kernel after the last one that boots is to panic with.
    panics: Option<String>,
    /// The number of the kernel that is left for the one that panics, or the last one.
    leaves: u32,
    boot: u32,
    /// Whether that kernel has been left.
    left: bool,
    /// Whether the kernel has panicked after which the machine boots cold.
    crashed: bool,
    progress: String,
    stage: Stage,
    done: bool,
    recent: VecDeque<String>,
    trouble: Option<(Trouble, Vec<String>)>,
}

impl Watch {
    /// Follows the console of this scenario.
    pub(super) fn new(scenario: &Scenario) -> Watch {
        Watch {
            boots: scenario.boots(),
            allow_warnings: scenario.allow_warnings,
            panics: scenario.next.panics.clone(),
            leaves: scenario.boots() - u32::from(scenario.next.then_cold),
            left: false,
            crashed: false,
            boot: 0,
            progress: "before the guest's init ran".into(),
            stage: Stage::Boot,
            done: false,
            recent: VecDeque::new(),
            trouble: None,
        }
    }

    /// Takes the next line; the end, when this line makes it.
    pub(super) fn line(&mut self, line: &str) -> Option<End> {
        if let Some((_, lines)) = &mut self.trouble {
            lines.push(line.to_owned());
            return if lines.len() >= AFTER + BEFORE || line.contains("---[ end ") {
                self.quiet()
            } else {
                None
            };
        }
        if self.recent.len() == BEFORE {
            self.recent.pop_front();
        }
        self.recent.push_back(line.to_owned());
        match read(line) {
            Line::Message(message) => self.message(message),
            Line::Torn => Some(self.failed(format!("cannot read the guest's message {line:?}"))),
            Line::Trouble(Trouble::Warning) if self.allow_warnings => None,
            Line::Trouble(Trouble::Panic) if self.is_wanted(line) => {
                self.crashed = self.leaves < self.boots;
                self.done = !self.crashed;
                self.progress = "the panic that this scenario is about".into();
                None
            }
            Line::Trouble(trouble) => {
                self.trouble = Some((trouble, self.recent.iter().cloned().collect()));
                None
            }
            Line::Other => None,
        }
    }

    /// Whether this panic is the one that the scenario ends in.
    fn is_wanted(&self, line: &str) -> bool {
        self.left && !self.crashed && self.panics.as_ref().is_some_and(|text| line.contains(text))
    }

    /// Whether lines that belong to a trouble are still coming, so that a short silence means the end.
    pub(super) fn in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// Nothing more comes for a while: the end, if there was trouble.
    pub(super) fn quiet(&mut self) -> Option<End> {
        let (trouble, lines) = self.trouble.take()?;
        Some(self.failed(format!("{}:\n{}", trouble.name(), indented(&lines))))
    }

    /// The guest is gone.
    pub(super) fn closed(&mut self) -> End {
        if let Some(end) = self.quiet() {
            return end;
        }
        if self.done {
            return End::Done;
        }
        if self.crashed && self.boot == self.leaves {
            return End::Crashed;
        }
        self.failed(format!(
            "the guest went away without a word; its last lines:\n{}",
            self.last_lines()
        ))
    }

    /// The deadline has passed.
    pub(super) fn late(&mut self, seconds: u64) -> End {
        if let Some(end) = self.quiet() {
            return end;
        }
        let (progress, last) = (&self.progress, self.last_lines());
        End::Late(format!(
            "{progress}: not done within {seconds} s; the last lines:\n{last}"
        ))
    }

    /// What the guest was last heard to do.
    pub(super) fn progress(&self) -> &str {
        &self.progress
    }

    /// What the guest is at, so far as its messages tell.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    fn message(&mut self, message: Message) -> Option<End> {
        self.stage = match &message {
            Message::Boot { .. } => Stage::Attach,
            Message::Step { .. } => Stage::Steps,
            Message::Kexec => Stage::Jump,
            Message::Stop | Message::Failed { .. } | Message::Done => Stage::Stop,
        };
        match message {
            Message::Boot { boot, release } => {
                let expected = self.boot + 1;
                self.boot = boot;
                self.progress = format!("kernel {boot} ({release})");
                if self.left && self.panics.is_some() && !self.crashed {
                    return Some(self.failed(format!("kernel {boot} booted, and it had to panic")));
                }
                (boot != expected).then(|| self.failed(format!("kernel {boot} booted instead of kernel {expected}")))
            }
            Message::Step { doing } => {
                self.progress = format!("kernel {}, {doing}", self.boot);
                None
            }
            Message::Kexec => {
                self.left = self.boot == self.leaves;
                self.progress = format!("kernel {}, kexec", self.boot);
                None
            }
            Message::Stop => {
                self.progress = format!("kernel {}, the agent's end", self.boot);
                None
            }
            Message::Failed { why } => Some(End::Failed(why)),
            Message::Done if self.boot == self.boots && (self.panics.is_none() || self.crashed) => {
                self.done = true;
                self.progress = "powering off".into();
                None
            }
            Message::Done => Some(self.failed(format!("the guest was done in kernel {} of {}", self.boot, self.boots))),
        }
    }

    fn failed(&self, why: String) -> End {
        End::Failed(format!("{}: {why}", self.progress))
    }

    fn last_lines(&self) -> String {
        indented(self.recent.iter())
    }
}

fn indented(lines: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    lines
        .into_iter()
        .map(|line| format!("    {}", line.as_ref()))
        .collect::<Vec<_>>()
        .join("\n")
}

fn read(line: &str) -> Line {
    let Some(text) = kernel_text(line) else {
        return Line::Other;
    };
    if let Some(message) = Message::parse(text) {
        return message.map_or(Line::Torn, Line::Message);
    }
    let trouble = BEGINNINGS.iter().find(|(beginning, _)| text.starts_with(beginning));
    trouble.map_or(Line::Other, |(_, trouble)| Line::Trouble(*trouble))
}

/// The text of a line that the kernel logged, without its time stamp and, where it is configured, its caller:
/// `[    1.234567][   T42] text`.
fn kernel_text(line: &str) -> Option<&str> {
    let (stamp, mut text) = line.strip_prefix('[')?.split_once(']')?;
    stamp.trim().parse::<f64>().ok()?;
    if let Some((_, after)) = text.strip_prefix('[').and_then(|caller| caller.split_once(']')) {
        text = after;
    }
    text.strip_prefix(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels(boots: u32) -> Watch {
        Watch::new(&scenario(if boots == 1 { "none" } else { "file" }, ""))
    }

    fn tolerant() -> Watch {
        Watch::new(&scenario("none", "allow_warnings = true"))
    }

    fn scenario(kexec: &str, keys: &str) -> Scenario {
        toml::from_str(&format!("summary = 's'\nkexec = '{kexec}'\n{keys}")).unwrap()
    }

    fn say(message: Message) -> String {
        format!("[    1.500000] {}", message.line())
    }

    fn boot(boot: u32) -> String {
        say(Message::Boot {
            boot,
            release: "7.3.4-luo".into(),
        })
    }

    fn kernel(text: &str) -> String {
        format!("[    2.000000][   T42] {text}")
    }

    /// Plays a console to its end, as if the guest went away after the last line.
    fn play<const N: usize>(mut watch: Watch, lines: [String; N]) -> End {
        lines
            .iter()
            .find_map(|line| watch.line(line))
            .unwrap_or_else(|| watch.closed())
    }

    fn why(end: End) -> String {
        match end {
            End::Failed(why) | End::Late(why) => why,
            End::Done | End::Crashed => panic!("it passed"),
        }
    }

    /// A first kernel that leaves for one that has to panic, after which the machine boots cold.
    fn crashes() -> Watch {
        let next = "next = { panics = 'no init', then_cold = true }\nkernels = [[], []]";
        let mut watch = Watch::new(&scenario("file", next));
        for line in [boot(1), say(Message::Kexec)] {
            assert_eq!(watch.line(&line), None);
        }
        watch
    }

    #[test]
    fn a_machine_that_boots_cold_after_a_wanted_panic_is_done() {
        let mut watch = crashes();
        assert_eq!(watch.line(&kernel("Kernel panic - not syncing: no init")), None);
        assert_eq!(watch.closed(), End::Crashed);
        assert_eq!(play(watch, [boot(2), say(Message::Done)]), End::Done);
    }

    #[test]
    fn a_kernel_that_boots_where_it_had_to_panic_has_failed() {
        assert!(why(play(crashes(), [boot(2)])).contains("it had to panic"));
        // Nor may the machine that boots cold panic as well.
        let mut watch = crashes();
        let panic = kernel("Kernel panic - not syncing: no init");
        assert_eq!(watch.line(&panic), None);
        assert_eq!(watch.closed(), End::Crashed);
        assert!(why(play(watch, [boot(2), panic])).contains("the kernel panicked"));
    }

    #[test]
    fn two_kernels_that_say_what_they_should_are_done() {
        let step = say(Message::Step {
            doing: "preserve".into(),
        });
        let lines = [
            boot(1),
            step,
            say(Message::Kexec),
            kernel("Linux version 7"),
            boot(2),
            say(Message::Stop),
            say(Message::Done),
        ];
        let mut watch = kernels(2);
        let stages = lines.each_ref().map(|line| {
            assert_eq!(watch.line(line), None);
            watch.stage()
        });
        let wanted = [
            Stage::Attach,
            Stage::Steps,
            Stage::Jump,
            Stage::Jump,
            Stage::Attach,
            Stage::Stop,
            Stage::Stop,
        ];
        assert_eq!(stages, wanted);
        assert_eq!(play(kernels(2), lines), End::Done);
    }

    #[test]
    fn a_guest_that_fails_says_why() {
        let lines = [boot(1), say(Message::Failed { why: "EEXIST".into() })];
        assert_eq!(play(kernels(1), lines), End::Failed("EEXIST".into()));
    }

    #[test]
    fn every_trouble_of_the_kernel_ends_it_with_the_lines_around() {
        for (text, told) in [
            ("Kernel panic - not syncing: Attempted to kill init!", "panicked"),
            ("BUG: kernel NULL pointer dereference, address: 0", "bug"),
            ("Oops: 0000 [#1] SMP", "bug"),
            ("kernel BUG at mm/memfd_luo.c:1!", "bug"),
            ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "locked up"),
            ("INFO: task init:1 blocked for more than 122 seconds.", "locked up"),
            ("rcu: INFO: rcu_sched self-detected stall on CPU", "stalled"),
            ("WARNING: kernel/liveupdate/luo_flb.c:1 at luo_flb_x+0x1/0x2", "warned"),
        ] {
            let lines = [
                boot(1),
                kernel("before"),
                kernel(text),
                kernel("after"),
                kernel("---[ end trace ]---"),
            ];
            let why = why(play(kernels(1), lines));
            assert!(why.contains(told) && why.contains("7.3.4-luo"), "{why}");
            assert!(
                why.contains("before") && why.contains(text) && why.contains("after"),
                "{why}"
            );
        }
    }

    #[test]
    fn a_trouble_is_told_though_its_end_never_comes() {
        let mut watch = kernels(1);
        assert_eq!(watch.line(&kernel("Kernel panic - not syncing: x")), None);
        assert!(watch.in_trouble());
        assert!(why(watch.quiet().unwrap()).contains("panicked"));

        let mut watch = kernels(1);
        watch.line(&kernel("BUG: x"));
        let end = (0..1000).find_map(|n| watch.line(&kernel(&format!("line {n}"))));
        assert!(end.is_some(), "endless lines are cut off");
    }

    #[test]
    fn a_trouble_after_the_guest_was_done_still_fails() {
        let lines = [
            boot(1),
            say(Message::Done),
            kernel("BUG: Bad page state in process init"),
        ];
        assert!(why(play(kernels(1), lines)).contains("bug"));
    }

    #[test]
    fn a_warning_passes_where_it_is_allowed_and_an_oops_does_not() {
        let lines = [boot(1), kernel("WARNING: x"), say(Message::Done)];
        assert_eq!(play(tolerant(), lines), End::Done);
        let lines = [boot(1), kernel("BUG: x"), say(Message::Done)];
        assert!(why(play(tolerant(), lines)).contains("bug"));
    }

    #[test]
    fn words_of_trouble_inside_other_lines_are_none() {
        for line in [
            "BUG: from a program",
            &kernel("no WARNING: here"),
            "[abc] BUG: x",
            &kernel("Debug: x"),
        ] {
            assert_eq!(read(line), Line::Other, "{line}");
        }
    }

    #[test]
    fn a_guest_that_skips_a_kernel_stops_too_early_or_vanishes_has_failed() {
        assert!(why(play(kernels(2), [boot(2)])).contains("instead of kernel 1"));
        assert!(why(play(kernels(2), [boot(1), boot(1)])).contains("kernel 1 booted instead of kernel 2"));
        assert!(why(play(kernels(2), [boot(1), say(Message::Done)])).contains("in kernel 1 of 2"));
        assert!(why(play(kernels(1), [boot(1), kernel("last")])).contains("last"));
        let mut watch = kernels(1);
        watch.line(&boot(1));
        assert!(why(watch.late(9)).contains("not done within 9 s"));
    }

    /// A first kernel that leaves, and a second one that does this.
    fn second_kernel(line: String) -> End {
        let watch = Watch::new(&scenario("file", "next = { panics = 'initialize properly' }"));
        play(watch, [boot(1), say(Message::Kexec), line])
    }

    #[test]
    fn a_panic_ends_well_only_the_scenario_that_wants_it_after_the_kexec() {
        let panic = kernel("Kernel panic - not syncing: The incoming tree failed to initialize properly");
        assert_eq!(second_kernel(panic.clone()), End::Done);

        let other = kernel("Kernel panic - not syncing: Attempted to kill init!");
        assert!(why(second_kernel(other)).contains("panicked"));
        assert!(why(second_kernel(boot(2))).contains("it had to panic"));
        assert!(why(second_kernel(kernel("Linux version 7"))).contains("went away"));
        let early = Watch::new(&scenario("file", "next = { panics = 'initialize properly' }"));
        assert!(why(play(early, [boot(1), panic])).contains("panicked"));
    }

    #[test]
    fn a_torn_message_is_a_failure() {
        let torn = kernel("testbed: {\"step\":{\"doi");
        assert!(why(play(kernels(1), [boot(1), torn])).contains("cannot read the guest's message"));
    }
}
