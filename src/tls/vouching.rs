//! How long the authorities of a door vouch for a client.

use crate::clock;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Verifies the certificates of clients; `None`: no certificate is vouched for.
pub(super) type ClientAuthorities = Option<Arc<dyn ClientCertVerifier>>;

/// That a client is vouched for; one that has presented no certificate needs nobody for that.
pub struct Vouching {
    door: &'static str,
    /// Its own first.
    chain: Vec<CertificateDer<'static>>,
    authorities: watch::Receiver<ClientAuthorities>,
}

impl Vouching {
    pub(super) fn new(
        door: &'static str,
        presented: Option<&[CertificateDer<'_>]>,
        authorities: watch::Receiver<ClientAuthorities>,
    ) -> Self {
        let presented = presented.unwrap_or_default();
        let chain = presented.iter().map(|one| one.clone().into_owned()).collect();
        Self { door, chain, authorities }
    }

    /// Returns when the authorities, as they are then, do not vouch for the client: at once, if they
    /// were exchanged since it has shaken hands.
    pub async fn ended(mut self) {
        let Some((own, others)) = self.chain.split_first() else {
            return std::future::pending().await;
        };
        loop {
            let verifier = self.authorities.borrow_and_update().clone();
            let now = UnixTime::since_unix_epoch(Duration::from_millis(clock::wall().0));
            let is_vouched_for = verifier
                .is_some_and(|verifier| verifier.verify_client_cert(own, others, now).is_ok());
            if !is_vouched_for {
                metrics::counter!("undertone_tls_clients_expelled_total", "door" => self.door)
                    .increment(1);
                tracing::info!(door = self.door, "nobody vouches for a client any more");
                return;
            }
            if self.authorities.changed().await.is_err() {
                // Those that could exchange them are gone.
                return std::future::pending().await;
            }
        }
    }
}
