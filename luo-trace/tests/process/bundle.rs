//! What a maintainer asks for, in one file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::support::{leaves, recorded, says};

/// The files in a bundle, by their names in it.
fn unpacked(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name.strip_prefix("luo-trace-bundle/").unwrap().to_owned(), bytes)
    });
    entries.collect()
}

#[test]
fn a_bundle_has_diagnosis_settings_and_journals_and_says_what_it_lacks() {
    let place = recorded(&[&leaves]);
    let out = tempfile::tempdir().unwrap();
    let bundle = out.path().join("b.tgz");
    let said = says(
        place.path(),
        &format!("bundle --output {} --journal .", bundle.display()),
    )
    .ends(0);
    assert_eq!(fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpacked(&bundle);
    let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
    assert!(text("version.txt").contains(env!("CARGO_PKG_VERSION")));
    assert!(text("doctor.txt").contains("this host can"), "{}", text("doctor.txt"));
    assert!(text("settings.txt").contains("journal"));
    assert!(
        text("updates.json").contains("\"departed\""),
        "{}",
        text("updates.json")
    );
    assert_eq!(files["journal/1.luoj"], fs::read(place.path().join("1.luoj")).unwrap());
    // Everything that is there is listed, and what is listed is there.
    let contents = text("CONTENTS");
    assert!(said.stdout.starts_with(&contents), "{}", said.stdout);
    let listed = contents.lines().filter_map(|line| line.split_whitespace().next());
    let listed: Vec<_> = listed.filter(|name| *name != "-").collect();
    assert_eq!(listed.len() + 1, files.len(), "{contents}");
    assert!(listed.iter().all(|name| files.contains_key(*name)), "{contents}");
}

#[test]
fn a_bundle_takes_the_newest_journals_that_have_room_and_counts_the_others() {
    let place = recorded(&[&leaves, &leaves]);
    let bytes = fs::metadata(place.path().join("2.luoj")).unwrap().len();
    let out = tempfile::tempdir().unwrap();
    let bundle = out.path().join("b.tgz");
    let line = format!(
        "bundle --output {} --journal . --journal-max-size {bytes}B",
        bundle.display()
    );
    let said = says(place.path(), &line).ends(0);
    assert!(said.stdout.contains("1 older journals"), "{}", said.stdout);
    let files = unpacked(&bundle);
    let journals: Vec<_> = files.keys().filter(|name| name.starts_with("journal/")).collect();
    assert_eq!(journals, ["journal/2.luoj"]);
}

#[test]
fn a_bundle_replaces_nothing() {
    let place = recorded(&[]);
    fs::write(place.path().join("b.tgz"), "mine").unwrap();
    says(place.path(), "bundle --output b.tgz --journal .")
        .ends(2)
        .refuses(&["b.tgz is there already"]);
    assert_eq!(fs::read(place.path().join("b.tgz")).unwrap(), b"mine");
    // A directory that is not there is told, and the rest is collected.
    let said = says(place.path(), "bundle --output c.tgz --journal nowhere").ends(0);
    assert!(said.stderr.contains("going on without it"), "{}", said.stderr);
}
