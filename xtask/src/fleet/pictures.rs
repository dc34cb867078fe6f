//! Pictures of the dashboards: their panels drawn by Grafana's own components in a headless browser, from what an engine answered.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::engines::Span;
use crate::setup::Tools;
use crate::vm::guest::workspace;
use crate::{cache, run};

/// What a picture is as wide as, in pixels: 24 columns of a dashboard, and a margin.
const WIDTH: u64 = 1580;
/// A row of a dashboard, and what is around all of them, in pixels: as in `page.jsx`.
const ROW: u64 = 38;
const AROUND: u64 = 100;
/// How long the page may take, in milliseconds of its own time.
const PATIENCE: u64 = 20_000;
/// The page's title where all went well.
const DRAWN: &str = "all panels are drawn";

/// Draws pictures.
pub(super) struct Painter {
    browser: PathBuf,
    /// Where the page and its program lie.
    place: PathBuf,
}

impl Painter {
    /// Gets Grafana's components, and makes the page's program of them.
    pub(super) fn new(tools: &Tools) -> Result<Self> {
        let source = workspace().join("xtask/panels");
        let place = cache::subdir("panels")?;
        let _lock = cache::lock("panels")?;
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let (wanted, installed) = (read(&source.join("package.json"))?, place.join("package.json"));
        let modules = place.join("node_modules");
        if !modules.is_dir() || read(&installed).is_ok_and(|installed| installed != wanted) {
            fs::write(&installed, &wanted).with_context(|| format!("cannot write {}", installed.display()))?;
            let mut npm = Command::new(tools.program("npm")?);
            npm.current_dir(&place);
            npm.args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--no-package-lock",
            ]);
            eprintln!("about to run: npm install, into the cache (half a gigabyte)");
            run::logged(
                "installing Grafana's components",
                &mut npm,
                &cache::subdir("log")?.join("npm.log"),
            )?;
        }
        for file in ["page.jsx", "page.html"] {
            fs::copy(source.join(file), place.join(file)).with_context(|| format!("cannot copy {file}"))?;
        }
        run::output(
            Command::new(modules.join(".bin/esbuild"))
                .current_dir(&place)
                .args([
                    "page.jsx",
                    "--bundle",
                    "--outfile=page.js",
                    "--jsx=automatic",
                    "--log-level=error",
                ])
                .args(["--loader:.svg=dataurl", "--loader:.ttf=dataurl"])
                .arg("--define:process.env.NODE_ENV=\"production\""),
        )?;
        Ok(Self {
            browser: tools.program("chromium")?,
            place,
        })
    }

    /// Draws a dashboard with these answers, by panel and target, into a PNG file; gives what is wrong with its panels.
    pub(super) fn draw(
        &self,
        dashboard: &Value,
        answers: &Value,
        span: Span,
        picture: &Path,
    ) -> Result<Option<String>> {
        let data = json!({"dashboard": dashboard, "answers": answers, "from": span.from, "to": span.to});
        let _lock = cache::lock("panels")?;
        fs::write(self.place.join("data.js"), format!("window.DASHBOARD = {data};")).context("cannot write data.js")?;
        let panels = dashboard["panels"].as_array().into_iter().flatten();
        let ends = panels
            .map(|panel| panel["gridPos"]["y"].as_u64().unwrap_or(0) + panel["gridPos"]["h"].as_u64().unwrap_or(0));
        let height = ends.max().unwrap_or(0) * ROW + AROUND;
        self.browse(&[
            format!("--screenshot={}", picture.display()),
            format!("--window-size={WIDTH},{height}"),
        ])?;
        ensure!(
            picture.is_file(),
            "the browser made no picture at {}",
            picture.display()
        );
        let page = self.browse(&["--dump-dom".into()])?;
        let title = page
            .split_once("<title>")
            .and_then(|(_, rest)| rest.split_once("</title>"));
        let title = title.context("the page has no title")?.0;
        Ok((title != DRAWN).then(|| title.replace("&quot;", "\"").replace("&amp;", "&")))
    }

    /// Has the browser open the page.
    fn browse(&self, how: &[String]) -> Result<String> {
        let profile = tempfile::tempdir().context("no directory for the browser")?;
        run::output(
            Command::new(&self.browser)
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--no-first-run",
                ])
                .args([
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                ])
                .args(["--hide-scrollbars", &format!("--virtual-time-budget={PATIENCE}")])
                .arg(format!("--user-data-dir={}", profile.path().display()))
                .args(how)
                .arg(format!("file://{}", self.place.join("page.html").display())),
        )
    }
}
