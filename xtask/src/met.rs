//! Whether the scenarios that ran on a kernel met each hook of the table: attached, and heard.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use luo_trace::journal;
use luo_trace_common::hooks::{Attach, Hook};

use crate::demo::journals;
use crate::kernel::Kernel;
use crate::vm;

/// What journals tell of the hooks.
#[derive(Default)]
struct Met {
    /// The hooks that were attached to all that they watch.
    attached: BTreeSet<String>,
    /// The hooks that this kernel has nothing for.
    absent: BTreeSet<String>,
    /// The functions that were traced.
    targets: BTreeSet<String>,
    /// The names of the events that came.
    events: BTreeSet<String>,
}

/// Hooks that no scenario makes tell anything of their own, and why. That they are attached is asked of them all the same.
const QUIET: [(Hook, &str); 4] = [
    (
        Hook::KhoPreservePages,
        "the kernel calls it within kho_preserve_vmalloc only, which tells of it",
    ),
    (
        Hook::KhoRestorePages,
        "the kernel calls it within kho_restore_vmalloc only, which tells of it",
    ),
    (
        Hook::KhoRemoveSubtree,
        "no scenario has the kernel call it while an agent runs",
    ),
    (
        Hook::KhoRetrieveSubtree,
        "LUO asks for its subtree while the kernel starts, before an agent can run",
    ),
];

/// Checks the journals that these scenarios left on a kernel.
///
/// # Errors
/// A hook was not attached in any of them, or none of its events came; or a journal cannot be read.
pub(crate) fn all(kernel: &Kernel, scenarios: &[&str]) -> Result<()> {
    let mut met = Met::default();
    for name in scenarios {
        let directory = vm::output_of(name, kernel).join("journal");
        for path in journals(&directory)? {
            let context = || format!("cannot read {}", path.display());
            met.add(journal::events(&path).with_context(context)?);
        }
    }
    let unmet = met.unmet();
    ensure!(unmet.is_empty(), "{}", unmet.join("\n"));
    Ok(())
}

impl Met {
    fn add<R: std::io::Read>(&mut self, events: journal::Events<R>) {
        for hook in &events.header().hooks {
            if hook.is_missing() {
                self.absent.insert(hook.id.clone());
            } else if hook.is_covered() {
                self.attached.insert(hook.id.clone());
            }
            self.targets.extend(hook.targets.iter().cloned());
        }
        self.events.extend(events.map(|event| event.name().to_owned()));
    }

    /// What is wanting, a sentence each.
    fn unmet(&self) -> Vec<String> {
        let mut unmet = Vec::new();
        for hook in Hook::ALL {
            let id = hook.id();
            let alternatives = match hook.attach() {
                Attach::Function { targets, .. } => targets,
                Attach::Callbacks { .. } => &[],
            };
            let traced = |target: &str| self.targets.contains(target);
            if !self.attached.contains(id) {
                if !self.absent.contains(id) {
                    unmet.push(format!("the hook {id} was not attached in any scenario"));
                }
            } else if !alternatives.is_empty() && !alternatives.iter().any(|target| traced(target)) {
                unmet.push(format!(
                    "the hook {id} was attached to none of {}",
                    alternatives.join(", ")
                ));
            } else if !QUIET.iter().any(|(quiet, _)| quiet == hook)
                && tells(*hook).is_some_and(|event| !self.events.contains(event))
            {
                unmet.push(format!(
                    "the hook {id} was attached, but no scenario made it tell anything"
                ));
            }
        }
        unmet
    }
}

/// The event that tells of this hook; none for what is told as a part of other hooks' events.
fn tells(hook: Hook) -> Option<&'static str> {
    Some(match hook {
        Hook::FileCallback => "file-handler-preserve",
        Hook::FlbCallback => "flb-create",
        Hook::FlbGetIncoming | Hook::FlbGetOutgoing => "flb-get",
        Hook::FlbPutIncoming | Hook::FlbPutOutgoing => "flb-put",
        Hook::Kexec => "kexec-return",
        Hook::ImageLoadFile | Hook::ImageLoadLegacy | Hook::ImageLoadCompat => "image-load",
        Hook::KhoKeyAdd | Hook::KhoKeyDel | Hook::KhoRestorePage => "kho-balance",
        hook => hook.id(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything attached, and everything heard, but for these.
    fn met(without: &[&str]) -> Met {
        let mut met = Met::default();
        for hook in Hook::ALL {
            met.attached.insert(hook.id().to_owned());
            met.events.extend(tells(*hook).map(str::to_owned));
            if let Attach::Function { targets, .. } = hook.attach() {
                met.targets.insert(targets[0].to_owned());
            }
        }
        for name in without {
            for names in [&mut met.attached, &mut met.events, &mut met.targets] {
                names.remove(*name);
            }
        }
        met
    }

    #[test]
    fn a_hook_that_is_silent_detached_or_on_another_function_is_told() {
        assert_eq!(met(&[]).unmet(), Vec::<String>::new());
        let told = |without: &[&str]| met(without).unmet().concat();
        assert!(told(&["flb-serialize"]).contains("flb-serialize was not attached"));
        assert!(told(&["luo_preserve_file"]).contains("file-preserve was attached to none of luo_preserve_file"));
        assert!(told(&["kexec-return"]).contains("kexec was attached, but no scenario made it tell"));
    }

    #[test]
    fn a_quiet_hook_has_to_be_attached_and_has_a_reason() {
        assert_eq!(met(&["kho-preserve-pages"]).unmet().len(), 1, "it is not attached");
        assert!(QUIET.iter().all(|(_, why)| !why.is_empty()));
    }

    #[test]
    fn what_a_kernel_does_not_have_need_not_be_met() {
        let mut met = met(&["flb-put-outgoing"]);
        assert_eq!(met.unmet().len(), 1);
        met.absent.insert("flb-put-outgoing".into());
        assert_eq!(met.unmet(), Vec::<String>::new());
    }
}
