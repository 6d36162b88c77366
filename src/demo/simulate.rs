//! `undertone simulate`: moves the telephones of `undertone gateway --simulated`.

use crate::telephony::connection::with_causes;
use crate::telephony::simulated::door;
use crate::tls::{ClientTls, ClientTlsFiles, TlsError};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// How long the gateway may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Which telephones, and how they are moved.
#[derive(Clone, Debug)]
pub struct SimulateOptions {
    /// The admin address of the gateway, as a URL.
    pub url: String,
    /// Authorities, in PEM, that vouch for it over https; `None`: those of the system.
    pub authorities: Option<PathBuf>,
    /// What to do.
    pub what: SimulateWhat,
}

/// What to do at simulated telephones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimulateWhat {
    /// Show telephones, calls and monitors in JSON.
    Show,
    /// Do what a line says.
    Line(String),
    /// Do what each line of standard input says, and answer each with one line.
    StandardInput,
}

/// The telephones cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The gateway does not answer.
    #[error("{}", with_causes(.0.to_string(), .0))]
    Http(#[from] reqwest::Error),
    /// The authorities that should vouch for it cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It has no simulated telephones.
    #[error("{0}: no simulated telephones here: start `undertone gateway --simulated`")]
    NotSimulated(String),
    /// Standard input or output fails.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Does it, and writes what was answered to standard output. False: something was refused.
///
/// # Errors
/// The telephones cannot be reached.
pub async fn run(options: SimulateOptions) -> Result<bool, SimulateError> {
    let tls = ClientTls::new(ClientTlsFiles { authorities: options.authorities, pair: None });
    let client = crate::demo::client_builder(&tls)?.timeout(ANSWER).build()?;
    let url = format!("{}{}", options.url.trim_end_matches('/'), door::PATH);
    match options.what {
        SimulateWhat::Show => {
            let (known, text) = answer(client.get(&url)).await?;
            let shown = serde_json::from_str::<serde_json::Value>(&text);
            let shown = shown.map_or(text, |value| format!("{value:#}\n"));
            known.then_some(()).ok_or(SimulateError::NotSimulated(url))?;
            io::stdout().write_all(shown.as_bytes())?;
            Ok(true)
        }
        SimulateWhat::Line(line) => say(&client, &url, line).await,
        SimulateWhat::StandardInput => {
            let mut all_done = true;
            for line in io::stdin().lines() {
                all_done &= say(&client, &url, line?).await?;
            }
            Ok(all_done)
        }
    }
}

async fn say(client: &reqwest::Client, url: &str, line: String) -> Result<bool, SimulateError> {
    let (done, text) = answer(client.post(url).body(line)).await?;
    if !done && !text.starts_with("error ") {
        return Err(SimulateError::NotSimulated(url.to_owned()));
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(done)
}

async fn answer(request: reqwest::RequestBuilder) -> Result<(bool, String), reqwest::Error> {
    let response = request.send().await?;
    Ok((response.status().is_success(), response.text().await?))
}
