//! Whether this host's kernel lets an image be loaded at all, before one is.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

/// How much of a configuration is read, in bytes.
const CONFIG_MAX: u64 = 4 << 20;

/// What the kernel has for or against loading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loading {
    /// `kernel.kexec_load_disabled` is 1: for good, until the host is rebooted.
    pub disabled: bool,
    /// `kernel.kexec_load_limit_reboot` is 0: as many were loaded as may be.
    pub used_up: bool,
    /// It is locked down in this mode, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// What it does about signatures; `None`: its configuration is not at hand.
    pub signatures: Option<Signatures>,
    /// IMA is built in: a rule of its may stand in for a signature.
    pub ima: bool,
}

/// What a kernel does about the signatures of images, by its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signatures {
    /// It looks at them (`CONFIG_KEXEC_SIG`).
    pub checked: bool,
    /// It takes none without (`CONFIG_KEXEC_SIG_FORCE`).
    pub forced: bool,
    /// It can verify those of this architecture's images: bzImages, or arm64's Images.
    pub verifiable: bool,
}

/// What speaks against loading an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// It is sure.
    pub sure: bool,
    /// It, in a sentence without its full stop.
    pub text: String,
}

/// What this host's kernel has.
pub fn loading() -> Loading {
    let release = super::release();
    Loading {
        disabled: super::sysctl("kexec_load_disabled").as_deref() == Some("1"),
        used_up: super::sysctl("kexec_load_limit_reboot").as_deref() == Some("0"),
        lockdown: lockdown().filter(|mode| mode != "none"),
        signatures: config(&release).as_deref().map(Signatures::of),
        ima: Path::new("/sys/kernel/security/ima").exists(),
    }
}

/// The mode in which the kernel is locked down, `none` too; `None`: it does not tell.
pub fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    chosen(&modes).map(str::to_owned)
}

/// Of modes such as `none [integrity] confidentiality` the one that holds.
fn chosen(modes: &str) -> Option<&str> {
    let mut words = modes.split_whitespace();
    words.find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

/// The running kernel's configuration, from the kernel itself or from beside its image.
fn config(release: &str) -> Option<String> {
    let mut text = String::new();
    if let Ok(packed) = File::open("/proc/config.gz") {
        GzDecoder::new(packed).take(CONFIG_MAX).read_to_string(&mut text).ok()?;
        return Some(text);
    }
    let beside = [
        format!("/boot/config-{release}"),
        format!("/usr/lib/modules/{release}/config"),
    ];
    let file = beside.iter().find_map(|path| File::open(path).ok())?;
    file.take(CONFIG_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

impl Signatures {
    fn of(config: &str) -> Self {
        let is_set = |name: &str| {
            let set = format!("CONFIG_{name}=y");
            config.lines().any(|line| line.trim_end() == set)
        };
        Self {
            checked: is_set("KEXEC_SIG"),
            forced: is_set("KEXEC_SIG_FORCE"),
            verifiable: is_set("KEXEC_BZIMAGE_VERIFY_SIG") || is_set("KEXEC_IMAGE_VERIFY_SIG"),
        }
    }
}

impl Loading {
    /// What speaks against loading an image that is signed or not; `None`: that is not known, or no image is at hand. Whether the
    /// kernel knows the key of a signature is not looked at. Mirrors `kexec_load_permitted` in `kernel/kexec_core.c` and
    /// `kimage_validate_signature` in `kernel/kexec_file.c` (7.3).
    pub fn objections(&self, signed: Option<bool>) -> Vec<Objection> {
        let objection = |sure, text: &str| Objection {
            sure,
            text: text.to_owned(),
        };
        let mut found = Vec::new();
        if self.disabled {
            found.push(objection(
                true,
                "the load will be refused: kernel.kexec_load_disabled is 1, which only another boot takes back",
            ));
        }
        if self.used_up {
            found.push(objection(
                true,
                "the load will be refused: kernel.kexec_load_limit_reboot is 0, which only another boot takes back",
            ));
        }
        found.extend(self.of_signature(signed));
        found
    }

    fn of_signature(&self, signed: Option<bool>) -> Option<Objection> {
        let forced = self.signatures.is_some_and(|signatures| signatures.forced);
        let why = match (&self.lockdown, forced) {
            (_, true) => "the running kernel takes signed images only (CONFIG_KEXEC_SIG_FORCE)".to_owned(),
            (Some(mode), false) => format!("the running kernel is locked down ({mode})"),
            (None, false) => return None,
        };
        let objection = |sure, text| Some(Objection { sure, text });
        let signatures = match self.signatures {
            // Where it does not look at signatures at all, lockdown does not concern kexec_file_load(2).
            Some(signatures) if !signatures.checked => return None,
            None => {
                let text = format!(
                    "the load may be refused: {why}, and whether it checks signatures (CONFIG_KEXEC_SIG) is not known"
                );
                return objection(false, text);
            }
            Some(signatures) => signatures,
        };
        // A rule of IMA's may stand in for a signature where none is enforced.
        let sure = forced || !self.ima;
        let refused = if sure { "will be refused" } else { "may be refused" };
        match signed {
            _ if !signatures.verifiable => objection(
                sure,
                format!("the load {refused}: {why}, and cannot verify any image's signature"),
            ),
            Some(false) => objection(
                sure,
                format!("the load {refused}: {why}, and the image has no signature"),
            ),
            Some(true) => None,
            None => objection(
                false,
                format!("the load may be refused: {why}, and whether the image has a signature is not known"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKED: Signatures = Signatures {
        checked: true,
        forced: false,
        verifiable: true,
    };

    fn locked_down(signatures: Option<Signatures>, ima: bool) -> Loading {
        Loading {
            lockdown: Some("integrity".into()),
            signatures,
            ima,
            ..Loading::default()
        }
    }

    /// Whether the load is refused, surely or perhaps; `None`: it is not.
    fn refused(host: &Loading, signed: Option<bool>) -> Option<bool> {
        let objections = host.objections(signed);
        objections.first().map(|objection| objection.sure)
    }

    #[test]
    fn a_switch_that_forbids_loading_is_an_objection_to_every_image() {
        assert_eq!(Loading::default().objections(Some(false)), []);
        let disabled = Loading {
            disabled: true,
            ..Loading::default()
        };
        let used_up = Loading {
            used_up: true,
            ..Loading::default()
        };
        assert_eq!(refused(&disabled, Some(true)), Some(true));
        assert_eq!(refused(&used_up, None), Some(true));
        assert!(
            disabled.objections(None)[0]
                .text
                .contains("kernel.kexec_load_disabled is 1")
        );
    }

    #[test]
    fn an_image_without_a_signature_is_refused_where_one_is_needed() {
        let forced = Loading {
            signatures: Some(Signatures {
                forced: true,
                ..CHECKED
            }),
            ima: true,
            ..Loading::default()
        };
        for host in [forced, locked_down(Some(CHECKED), false)] {
            assert_eq!(refused(&host, Some(false)), Some(true));
            assert_eq!(refused(&host, Some(true)), None);
            assert_eq!(refused(&host, None), Some(false));
        }
        // What IMA may let pass, and what is not known of the kernel, is no certainty.
        assert_eq!(refused(&locked_down(Some(CHECKED), true), Some(false)), Some(false));
        assert_eq!(refused(&locked_down(None, false), Some(false)), Some(false));
        // A kernel that verifies no image of its architecture takes none, and one that looks at no signature any.
        let cannot = Signatures {
            verifiable: false,
            ..CHECKED
        };
        assert_eq!(refused(&locked_down(Some(cannot), false), Some(true)), Some(true));
        assert_eq!(
            refused(&locked_down(Some(Signatures::default()), false), Some(false)),
            None
        );
        // Where nothing is enforced, an unsigned image loads.
        let open = Loading {
            signatures: Some(CHECKED),
            ..Loading::default()
        };
        assert_eq!(refused(&open, Some(false)), None);
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(chosen("none integrity"), None);
        let config = "# CONFIG_KEXEC_SIG_FORCE is not set\nCONFIG_KEXEC_SIG=y\nCONFIG_KEXEC_BZIMAGE_VERIFY_SIG=y\n";
        assert_eq!(Signatures::of(config), CHECKED);
        assert_eq!(Signatures::of("CONFIG_KEXEC_SIGS=y\n"), Signatures::default());
    }
}
