//! What only a gateway over simulated telephones needs: the telephones of its directory, and a
//! directory for its audit that goes with it.

use crate::config::Config;
use crate::telephony::TelephonyService;
use crate::telephony::proto::telephony_server::TelephonyServer;
use crate::telephony::simulated::{self, Pickup, Simulated, SimulatedConfig, Telephone};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A telephone for each device of the directory; customers are outside, under any other number.
pub(super) fn start(config: &Config) -> (TelephonyServer<TelephonyService>, Simulated) {
    let telephone = |device: &std::sync::Arc<crate::gateway::DeviceEntry>| Telephone {
        id: device.id.clone(),
        number: device.number.clone(),
        registered: true,
        is_customer: false,
        pickup: Pickup::Answers,
    };
    simulated::start(SimulatedConfig {
        devices: config.directory.devices.values().map(telephone).collect(),
        supervision: config.b2bua.supervision.clone(),
        kept: Vec::new(),
    })
}

/// A directory of this process alone, gone when it is dropped.
pub(super) struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    pub(super) fn create() -> io::Result<Self> {
        let name =
            format!("undertone-simulated-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        // Nobody else's.
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        // What is left in the temporary directory hurts nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
