//! The product on free ports, with the sample's people in it.

use super::DemoError;
use crate::app::{self, Running, ServerRole};
use crate::clock;
use crate::config;
use crate::demo::phone::{PhoneConfig, PhoneSrtp, PhoneTls};
use crate::http::auth::hash_password_cheaply;
use crate::private;
use crate::sip::flow::Protocol;
use crate::tls::{Authority, AuthorityError, ClientTls, ClientTlsFiles};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

pub(super) const CUSTOMER_NUMBER: &str = "7001";
pub(super) const AGENT_NUMBER: &str = "5001";
pub(super) const COLLEAGUE_NUMBER: &str = "5002";
pub(super) const SUPERVISOR_NUMBER: &str = "5005";
pub(super) const SECOND_NUMBER: &str = "5006";
pub(super) const AGENT_USER: &str = "agent";
pub(super) const SUPERVISOR_USER: &str = "supervisor";
pub(super) const SECOND_USER: &str = "second";
pub(super) const AGENT_DEVICE: &str = "9c14cad7-17c4-48d0-8492-7cf0ff92c224";
pub(super) const SUPERVISOR_DEVICE: &str = "efelab32-53f9-43ce-b65e-5768c61f7d4a";
pub(super) const SECOND_DEVICE: &str = "0f4f5e0a-2a53-4c0e-8d3e-8c1a5b6f7d10";

const START: Duration = Duration::from_secs(10);

/// The running product.
pub(super) struct World {
    /// Scheme, host and port of REST and CometD.
    pub(super) base: String,
    /// What its desktops believe.
    pub(super) tls: ClientTls,
    /// Everything is encrypted.
    has_tls: bool,
    pub(super) sip: SocketAddr,
    pub(super) customer_password: String,
    pub(super) agent_password: String,
    pub(super) supervisor_password: String,
    pub(super) colleague_password: String,
    pub(super) second_password: String,
    product: Product,
    _place: WorldPlace,
}

enum Product {
    Here(Box<Running>),
    Children(Vec<Child>),
}

/// A directory for state and audit, gone when the demo is over.
struct WorldPlace(PathBuf);

impl Drop for WorldPlace {
    fn drop(&mut self) {
        // What is left in the temporary directory hurts nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ports to listen on; 0 takes a free one.
#[derive(Default)]
struct WorldPorts {
    rest: u16,
    gateway_grpc: u16,
    gateway_admin: u16,
    backend_grpc: u16,
    backend_admin: u16,
    sip: u16,
}

/// Starts with other ports when one was taken meanwhile.
const ATTEMPTS: u8 = 3;

impl World {
    /// Gateway and SIP backend in this process, or as two; with TLS at every door, or none.
    pub(super) async fn start(split: bool, has_tls: bool) -> Result<World, DemoError> {
        let failed = |error: &dyn std::fmt::Display| DemoError::Start(error.to_string());
        let name = format!("undertone-demo-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let place = WorldPlace(std::env::temp_dir().join(name));
        private::make_directory(&place.0).map_err(|error| failed(&error))?;
        let passwords: [String; 5] =
            std::array::from_fn(|_| format!("{:016x}", rand::random::<u64>()));
        let tls = match has_tls {
            true => certificates(&place.0).map_err(|error| failed(&error))?,
            false => ClientTls::default(),
        };
        let (product, rest, sip) = match split {
            true => {
                let mut attempts = 0;
                loop {
                    let ports = WorldPorts::free().map_err(|error| failed(&error))?;
                    let text = describe(&place.0, &ports, &passwords, has_tls)
                        .map_err(|error| failed(&error))?;
                    attempts += 1;
                    let base = format!("{}://127.0.0.1", scheme(has_tls));
                    match start_children(&place.0, &text, &ports, (&base, &tls)).await {
                        Ok(children) => {
                            break (
                                Product::Children(children),
                                loopback(ports.rest),
                                loopback(ports.sip),
                            );
                        }
                        // Somebody else may have taken a port meanwhile.
                        Err(error) if attempts == ATTEMPTS => return Err(error),
                        Err(_) => {}
                    }
                }
            }
            false => {
                let text = describe(&place.0, &WorldPorts::default(), &passwords, has_tls)
                    .map_err(|error| failed(&error))?;
                let mut config =
                    config::parse(Some((Path::new("the demo's configuration"), &text)), [])
                        .map_err(|error| failed(&error))?;
                config.media.ports = None;
                let running = app::start(config, ServerRole::Serve, None)
                    .await
                    .map_err(|error| failed(&error))?;
                let protocol = if has_tls { Protocol::Tls } else { Protocol::Udp };
                let (Some(rest), Some(sip)) = (running.rest(), running.sip(protocol)) else {
                    return Err(DemoError::Start("an address is missing".into()));
                };
                (Product::Here(Box::new(running)), rest, sip)
            }
        };
        let [
            customer_password,
            agent_password,
            supervisor_password,
            colleague_password,
            second_password,
        ] = passwords;
        Ok(World {
            base: format!("{}://{rest}", scheme(has_tls)),
            tls,
            has_tls,
            sip,
            customer_password,
            agent_password,
            supervisor_password,
            colleague_password,
            second_password,
            product,
            _place: place,
        })
    }

    /// A phone as this world wants it.
    pub(super) fn phone(&self, number: &str, password: &str, hz: f32) -> PhoneConfig {
        let config = PhoneConfig::new(number, password, self.sip, hz);
        if !self.has_tls {
            return config;
        }
        let name = self.sip.ip().to_string();
        let tls = PhoneTls { client: self.tls.clone(), name, sips: false };
        config.over(tls).encrypting(PhoneSrtp::default())
    }

    pub(super) async fn stop(self) {
        match self.product {
            Product::Here(running) => running.stop().await,
            Product::Children(children) => {
                for mut child in children {
                    terminate(&child);
                    if tokio::time::timeout(START, child.wait()).await.is_err() {
                        // It is dropped, and so killed.
                        tracing::warn!("a child did not end when asked");
                    }
                }
            }
        }
    }
}

impl WorldPorts {
    /// Ports that nobody has now.
    fn free() -> io::Result<WorldPorts> {
        let listeners: Vec<TcpListener> = (0..5)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<io::Result<_>>()?;
        let tcp: Vec<u16> = listeners
            .iter()
            .map(|listener| Ok(listener.local_addr()?.port()))
            .collect::<io::Result<_>>()?;
        // Both kinds are listened on.
        let sip = loop {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                break port;
            }
        };
        Ok(WorldPorts {
            rest: tcp[0],
            gateway_grpc: tcp[1],
            gateway_admin: tcp[2],
            backend_grpc: tcp[3],
            backend_admin: tcp[4],
            sip,
        })
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn scheme(has_tls: bool) -> &'static str {
    if has_tls { "https" } else { "http" }
}

/// Makes a private authority in the demo's folder, and what all doors present.
fn certificates(place: &Path) -> Result<ClientTls, AuthorityError> {
    // Below 14 days the log warns.
    const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
    let folder = place.join("tls");
    Authority::write(&folder, &["127.0.0.1".to_owned()], clock::wall(), LIFE)?;
    let authorities = Some(folder.join("authority.crt"));
    Ok(ClientTls::new(ClientTlsFiles { authorities, pair: None }))
}

/// The configuration: the sample's directory with passwords of its own.
fn describe(
    place: &Path,
    ports: &WorldPorts,
    [customer, agent, supervisor, colleague, second]: &[String; 5],
    has_tls: bool,
) -> Result<String, crate::http::auth::PasswordError> {
    let (agent_hash, supervisor_hash) =
        (hash_password_cheaply(agent)?, hash_password_cheaply(supervisor)?);
    let second_hash = hash_password_cheaply(second)?;
    let WorldPorts { rest, gateway_grpc, gateway_admin, backend_grpc, backend_admin, sip } = ports;
    let scheme = scheme(has_tls);
    // At port 0 the assembly knows better.
    let public_url = if *rest == 0 {
        String::new()
    } else {
        format!("public_url = \"{scheme}://127.0.0.1:{rest}\"")
    };
    let place = place.display();
    let (tls, listen, encrypted) = match has_tls {
        true => (
            format!(
                "[tls]\ncertificate = '{place}/tls/server.crt'\nkey = '{place}/tls/server.key'\n\
                 backend_authorities = '{place}/tls/authority.crt'\n"
            ),
            format!("\"tls:127.0.0.1:{sip}\""),
            "transport = \"tls\"\nsrtp = \"required\"",
        ),
        false => (String::new(), format!("\"udp:127.0.0.1:{sip}\", \"tcp:127.0.0.1:{sip}\""), ""),
    };
    Ok(format!(
        r#"
state_dir = '{place}'
backend_url = "{scheme}://127.0.0.1:{backend_grpc}"
{tls}
[rest]
bind = "127.0.0.1:{rest}"
{public_url}
[grpc]
bind = "127.0.0.1:{gateway_grpc}"
[admin]
bind = "127.0.0.1:{gateway_admin}"
[sip_backend]
grpc_bind = "127.0.0.1:{backend_grpc}"
admin_bind = "127.0.0.1:{backend_admin}"
[sip]
listen = [{listen}]
digests = ["SHA-256", "MD5"]
grace = 0
[monitoring]
max_supervisors_per_device = 2
[log]
filter = "warn"
[[voice_environment]]
id = "370ef5e6-9e3c-4d91-9588-7f4dfe67e011"
name = "Undertone"
[[device]]
id = "{SUPERVISOR_DEVICE}"
number = "{SUPERVISOR_NUMBER}"
password = "{supervisor}"
{encrypted}
[[device]]
id = "{SECOND_DEVICE}"
number = "{SECOND_NUMBER}"
password = "{second}"
{encrypted}
[[device]]
id = "{AGENT_DEVICE}"
number = "{AGENT_NUMBER}"
password = "{agent}"
{encrypted}
[[device]]
id = "7f1f1d0e-6a86-4d0e-9f3c-1f6b8a1f0b52"
number = "{COLLEAGUE_NUMBER}"
password = "{colleague}"
{encrypted}
[[device]]
id = "b6f0c1de-3c0b-4f6e-9a57-0d2f8f1e64c3"
number = "{CUSTOMER_NUMBER}"
kind = "customer"
password = "{customer}"
{encrypted}
[[user]]
id = "{SUPERVISOR_USER}"
display_name = "Sample Supervisor"
roles = ["Supervisor"]
devices = ["{SUPERVISOR_DEVICE}"]
password_hash = "{supervisor_hash}"
[[user]]
id = "{SECOND_USER}"
display_name = "Second Supervisor"
roles = ["Supervisor"]
devices = ["{SECOND_DEVICE}"]
password_hash = "{second_hash}"
[[user]]
id = "{AGENT_USER}"
display_name = "Sample Agent"
roles = ["Agent"]
devices = ["{AGENT_DEVICE}"]
password_hash = "{agent_hash}"
[[user]]
id = "colleague"
display_name = "Sample Colleague"
roles = ["Agent"]
devices = ["7f1f1d0e-6a86-4d0e-9f3c-1f6b8a1f0b52"]
password_hash = "{agent_hash}"
[[group]]
id = "sample"
agents = ["{AGENT_USER}", "colleague"]
supervisors = ["{SUPERVISOR_USER}", "{SECOND_USER}"]
"#
    ))
}

async fn start_children(
    place: &Path,
    text: &str,
    ports: &WorldPorts,
    (base, tls): (&str, &ClientTls),
) -> Result<Vec<Child>, DemoError> {
    let failed = |error: io::Error| DemoError::Start(error.to_string());
    let file = place.join("undertone.toml");
    private::replace(&file, text.as_bytes()).map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let start = |part: &str| {
        let mut command = Command::new(&program);
        command.arg(part).arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.spawn().map_err(failed)
    };
    let mut children = vec![start("sip-backend")?, start("gateway")?];
    for admin in [ports.backend_admin, ports.gateway_admin] {
        ready(&format!("{base}:{admin}/readyz"), tls, &mut children).await?;
    }
    Ok(children)
}

async fn ready(url: &str, tls: &ClientTls, children: &mut [Child]) -> Result<(), DemoError> {
    let http = crate::demo::client_builder(tls)?.build()?;
    let deadline = clock::instant() + START;
    while clock::instant() < deadline {
        if http.get(url).send().await.is_ok_and(|response| response.status().is_success()) {
            return Ok(());
        }
        for child in children.iter_mut() {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(DemoError::Start(format!("a child has ended: {status}")));
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Err(DemoError::Start("the children are not ready in time".into()))
}

fn terminate(child: &Child) {
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else {
        return;
    };
    // It may have ended by itself.
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM);
}
