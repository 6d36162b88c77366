//! What the doors cost: a TLS handshake beside nginx, and requests of Coach at a pace.
//!
//! ```text
//! cargo bench --bench doors -- [--connections 2000] [--seconds 5] [--rate 1000] [--json]
//! ```
//!
//! Each server is a process of its own on one core, the load is this process on another. Other
//! programs on those cores spoil it.
//!
//! **Handshakes.** One connection after the other: TLS 1.3 with a certificate of P-256, one short
//! request, its answer, the end. In clear, resumed, and full; the same by nginx with one worker,
//! where it is installed. `µs` is the server's CPU time of a connection, the median of five parts;
//! the cost of a handshake is what it has more than a connection in clear.
//!
//! **Coach at a pace.** A gateway over simulated telephones, 100 supervisors; each in turn arms a
//! monitor by Coach and cancels it, `--rate` requests a second in all, each with its line in the
//! audit on the disk. The delay is counted from when a request was due. In clear with HTTP Basic,
//! and over TLS with a bearer token.

mod cores;
mod measure;
mod seal;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cores::{Cores, cpu_of, pin};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use measure::Spread;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Stream};
use seal::Seal;
use serde_json::{Value, json};
use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use undertone::clock::{instant, wall};
use undertone::http::auth::hash_password_cheaply;

const START: Duration = Duration::from_secs(30);
const PARTS: usize = 5;
const SUPERVISORS: usize = 100;
const PASSWORD: &str = "correct horse";
/// Of requests: 0.99 of them are answered within this.
const BAR: Duration = Duration::from_millis(20);

struct Options {
    connections: usize,
    seconds: u64,
    rate: u64,
    json: bool,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options { connections: 2_000, seconds: 5, rate: 1_000, json: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--connections" => options.connections = value()?.parse::<usize>()?.max(PARTS),
            "--seconds" => options.seconds = value()?.parse::<u64>()?.max(1),
            "--rate" => options.rate = value()?.parse::<u64>()?.clamp(1, 100_000),
            "--json" => options.json = true,
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let cores = Cores::find()?;
    let seal = Seal::make()?;
    let handshakes = handshakes(&options, cores, &seal)?;
    let paced = paced(&options, cores, &seal)?;
    match options.json {
        true => println!("{}", json!({"bench": "doors", "handshakes": handshakes, "coach": paced})),
        false => {
            println!("handshakes: CPU time of the server, µs a connection");
            print(&handshakes);
            println!("Coach, {} a second: delay from when it was due, ms", options.rate);
            print(&paced);
        }
    }
    Ok(())
}

fn print(figures: &Value) {
    for (name, value) in figures.as_object().into_iter().flatten() {
        println!("  {name:<44} {value}");
    }
}

/// A server, killed when it is dropped.
struct Server {
    child: Child,
    place: TempDir,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn spawn(
        mut command: Command,
        place: TempDir,
        cores: Cores,
        mut find: impl FnMut(&str) -> Option<SocketAddr>,
    ) -> Result<Self, Box<dyn Error>> {
        let said = place.path().join("said");
        let out = File::create(&said)?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        // A child starts on its parent's core.
        pin(cores.server)?;
        let child = command.spawn();
        pin(cores.generator)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child: child?, place, address: nowhere };
        let begun = instant();
        loop {
            let text = fs::read_to_string(server.place.path().join("said"))?;
            if let Some(address) = find(&text)
                && TcpStream::connect(address).is_ok()
            {
                server.address = address;
                return Ok(server);
            }
            if server.child.try_wait()?.is_some() || begun.elapsed() > START {
                return Err(format!("the server has not started: {text}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ours over simulated telephones, with more in its configuration.
    fn ours(more: &str, cores: Cores) -> Result<Self, Box<dyn Error>> {
        let place = tempfile::tempdir()?;
        let file = place.path().join("undertone.toml");
        let any = "bind = \"127.0.0.1:0\"\n";
        let state = place.path().join("state");
        fs::write(
            &file,
            format!(
                "state_dir = {state:?}\n[rest]\n{any}[grpc]\n{any}[admin]\n{any}[log]\n\
                 filter = \"warn,undertone::app=info\"\n{more}"
            ),
        )?;
        private(&file)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
        command.args(["gateway", "--simulated", "--config"]).arg(file).current_dir(place.path());
        Self::spawn(command, place, cores, |said| {
            let (_, url) = said.split_once("REST and CometD on http")?;
            let (_, url) = url.split_once("://")?;
            url.split_once('/')?.0.parse().ok()
        })
    }

    /// nginx with one worker; `None`: it is not installed.
    fn nginx(seal: Option<&Seal>, cores: Cores) -> Result<Option<Self>, Box<dyn Error>> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let place = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (listen, tls) = match seal {
            None => ("", String::new()),
            Some(seal) => (
                " ssl",
                format!(
                    "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3; \
                     ssl_session_cache shared:a:10m;",
                    seal.certificate.display(),
                    seal.key.display()
                ),
            ),
        };
        let here = place.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {here}/{name};"))
            .concat();
        let file = place.path().join("nginx.conf");
        fs::write(
            &file,
            format!(
                "daemon off; master_process off; error_log stderr; pid {here}/pid;\n\
                 events {{}}\nhttp {{ access_log off; {temporary}\n\
                 server {{ listen {address}{listen} backlog=4096; {tls}\n\
                 location / {{ default_type application/json; return 200 '{{\"statusCode\":0}}'; }} \
                 }} }}\n"
            ),
        )?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(place.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
        Self::spawn(command, place, cores, |_| Some(address)).map(Some)
    }

    fn cpu(&self) -> Result<Duration, Box<dyn Error>> {
        cpu_of(self.child.id())
    }
}

fn private(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))
}

/// One connection, one request, one answer.
fn connect(server: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /api/v2/diagnostics/version HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    match tls {
        None => {
            stream.write_all(request.as_bytes())?;
            stream.read_to_end(&mut answer)?;
        }
        Some(config) => {
            let name = ServerName::IpAddress(server.ip().into());
            let mut connection = ClientConnection::new(config.clone(), name)?;
            let mut stream = Stream::new(&mut connection, &mut stream);
            stream.write_all(request.as_bytes())?;
            match stream.read_to_end(&mut answer) {
                // nginx ends the connection without a word.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                other => drop(other?),
            }
        }
    }
    match answer.starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(format!("answered {}", String::from_utf8_lossy(&answer)).into()),
    }
}

/// µs of the server's CPU time for a connection.
fn cost(
    server: &Server,
    connections: usize,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Spread, Box<dyn Error>> {
    let each = (connections / PARTS).max(1);
    for _ in 0..each / 4 + 1 {
        connect(server.address, tls)?;
    }
    let mut parts = Vec::new();
    for _ in 0..PARTS {
        let before = server.cpu()?;
        for _ in 0..each {
            connect(server.address, tls)?;
        }
        parts.push((server.cpu()? - before).as_secs_f64() * 1e6 / each as f64);
    }
    Spread::of(parts).ok_or_else(|| "nothing was measured".into())
}

fn handshakes(options: &Options, cores: Cores, seal: &Seal) -> Result<Value, Box<dyn Error>> {
    let mut full = ClientConfig::clone(&seal.client);
    full.resumption = Resumption::disabled();
    let (full, resumed) = (Arc::new(full), &seal.client);
    let mut figures = serde_json::Map::new();
    let mut handshake = Vec::new();
    let start = |is_ours: bool, seal: Option<&Seal>| match is_ours {
        true => Server::ours(&seal.map(Seal::keys).unwrap_or_default(), cores).map(Some),
        false => Server::nginx(seal, cores),
    };
    for (name, is_ours) in [("undertone", true), ("nginx", false)] {
        let (Some(clear), Some(sealed)) = (start(is_ours, None)?, start(is_ours, Some(seal))?)
        else {
            continue;
        };
        let count = options.connections;
        let clear = cost(&clear, count, None)?;
        let costs = [cost(&sealed, count, Some(resumed))?, cost(&sealed, count, Some(&full))?];
        for (kind, cost) in ["in clear", "resumed", "full"].iter().zip([clear].iter().chain(&costs))
        {
            figures.insert(format!("{name}, {kind}"), json!(format!("{cost:.0}")));
        }
        handshake.push(costs.map(|cost| cost.middle - clear.middle));
    }
    if let [ours, nginx] = handshake[..] {
        for (kind, ours, nginx) in [("resumed", ours[0], nginx[0]), ("full", ours[1], nginx[1])] {
            let ratio = format!("{:.2}", ours / nginx);
            figures.insert(format!("handshake {kind}, ratio to nginx"), json!(ratio));
        }
    }
    Ok(Value::Object(figures))
}

/// An issuer of access tokens (RFC 9068), with its key at a URL of this machine.
struct Issuer {
    key: EncodingKey,
    url: String,
}

impl Issuer {
    const AUDIENCE: &str = "https://desk.example.com";
    const KID: &str = "bench";

    fn start() -> Result<Self, Box<dyn Error>> {
        let pair = rcgen::KeyPair::generate()?;
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        // 4, x, y
        let (x, y) = pair.public_key_raw()[1..].split_at(32);
        let keys = json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": Self::KID,
            "x": encoded(x), "y": encoded(y),
        }]});
        let keys = keys.to_string();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who has gone away asks again.
                let _ = answer(stream, &keys);
            }
        });
        Ok(Self { key: EncodingKey::from_ec_der(&pair.serialize_der()), url })
    }

    /// The section of our configuration.
    fn keys(&self) -> String {
        let (url, audience) = (&self.url, Self::AUDIENCE);
        format!(
            "[[identity.issuer]]\nname = \"bench\"\nissuer = \"{url}\"\njwks_url = \"{url}/keys\"\n\
             audience = [\"{audience}\"]\nalgorithms = [\"ES256\"]\n"
        )
    }

    fn token(&self, user: &str) -> Result<String, Box<dyn Error>> {
        let now = wall().0 / 1000;
        let claims = json!({
            "iss": self.url, "sub": user, "aud": Self::AUDIENCE, "client_id": "bench", "jti": user,
            "iat": now, "exp": now + 3600,
        });
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(Self::KID.to_owned());
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}

fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            size => request.extend_from_slice(&part[..size]),
        }
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn directory() -> Result<String, Box<dyn Error>> {
    let hash = hash_password_cheaply(PASSWORD)?;
    let mut text = "[audit]\nrefused_per_user = 10000\n".to_owned();
    for number in 0..SUPERVISORS {
        for (role, kind) in [("Supervisor", 's'), ("Agent", 'a')] {
            let digit = if kind == 's' { 1 } else { 2 };
            write!(
                text,
                "[[device]]\nid = \"{kind}{number}\"\nnumber = \"{digit}{number:04}\"\n[[user]]\n\
                 id = \"{kind}{number}\"\nroles = [\"{role}\"]\ndevices = [\"{kind}{number}\"]\n\
                 password_hash = \"{hash}\"\n"
            )?;
        }
    }
    let names = |kind: char| {
        (0..SUPERVISORS).map(|number| format!("\"{kind}{number}\"")).collect::<Vec<_>>().join(", ")
    };
    write!(
        text,
        "[[group]]\nid = \"all\"\nagents = [{}]\nsupervisors = [{}]\n",
        names('a'),
        names('s')
    )?;
    Ok(text)
}

fn paced(options: &Options, cores: Cores, seal: &Seal) -> Result<Value, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut figures = serde_json::Map::new();
    let (directory, issuer) = (directory()?, Issuer::start()?);
    let mut ninety_ninth = Vec::new();
    for (name, seal, issuer) in [
        ("in clear, Basic", None, None),
        ("TLS, Basic", Some(seal), None),
        ("TLS, bearer", Some(seal), Some(&issuer)),
    ] {
        let keys = seal.map(Seal::keys).unwrap_or_default();
        let identity = issuer.map(Issuer::keys).unwrap_or_default();
        let server = Server::ours(&format!("{keys}{identity}{directory}"), cores)?;
        let supervisors = (0..SUPERVISORS).map(|number| match issuer {
            Some(issuer) => Ok(format!("Bearer {}", issuer.token(&format!("s{number}"))?)),
            None => Ok(basic(&format!("s{number}"))),
        });
        let supervisors = supervisors.collect::<Result<Vec<String>, Box<dyn Error>>>()?;
        let before = server.cpu()?;
        let delays = runtime.block_on(coach(&server, options, seal, &supervisors))?;
        let cpu = (server.cpu()? - before).as_secs_f64() * 1e6 / delays.len() as f64;
        let at = |part: f64| delays[((delays.len() - 1) as f64 * part) as usize];
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let worst = ms(at(1.0));
        figures.insert(
            name.to_owned(),
            json!(format!(
                "p50 {:.2}, p99 {:.2}, worst {worst:.2}; {cpu:.0} µs of CPU a request",
                ms(at(0.5)),
                ms(at(0.99)),
            )),
        );
        ninety_ninth.push(at(0.99));
    }
    if let [clear, _, sealed] = ninety_ninth[..] {
        let ratio = sealed.as_secs_f64() / clear.as_secs_f64();
        let met = if sealed <= BAR { "met" } else { "missed" };
        figures.insert("p99, ratio to clear".to_owned(), json!(format!("{ratio:.2}")));
        figures.insert(format!("bar: p99 within {} ms", BAR.as_millis()), json!(met));
    }
    Ok(Value::Object(figures))
}

/// HTTP Basic (RFC 7617).
fn basic(user: &str) -> String {
    let both = format!("{user}:{PASSWORD}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
}

/// Delays of the requests, the least first.
/// `supervisors`: the Authorization of each.
async fn coach(
    server: &Server,
    options: &Options,
    seal: Option<&Seal>,
    supervisors: &[String],
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let mut client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(SUPERVISORS);
    if let Some(seal) = seal {
        client = client.tls_backend_preconfigured(ClientConfig::clone(&seal.client)).http1_only();
    }
    let client = client.build()?;
    let scheme = if seal.is_some() { "https" } else { "http" };
    let base = format!("{scheme}://{}/api/v2", server.address);
    let post = |supervisor: usize, arms: bool| {
        let body = match arms {
            true => json!({
                "operationName": "Coach",
                "targetDeviceUri": format!("{base}/devices/a{supervisor}"),
            }),
            false => json!({"operationName": "CancelSupervisorMonitoring"}),
        };
        let request = client.post(format!("{base}/me/devices/s{supervisor}")).json(&body);
        request.header("Authorization", &supervisors[supervisor]).send()
    };
    // The passwords are known, the connections open.
    for supervisor in 0..SUPERVISORS {
        for arms in [true, false] {
            accepted(post(supervisor, arms).await?).await?;
        }
    }
    let total = options.rate * options.seconds;
    let begun = instant() + Duration::from_millis(10);
    let due = |number: u64| begun + Duration::from_nanos(number * 1_000_000_000 / options.rate);
    let mut running = tokio::task::JoinSet::new();
    let mut delays = Vec::with_capacity(total as usize);
    for number in 0..total {
        let due: Instant = due(number);
        tokio::time::sleep_until(due.into()).await;
        let round = number / SUPERVISORS as u64;
        let request = post((number % SUPERVISORS as u64) as usize, round.is_multiple_of(2));
        running.spawn(async move {
            let answer = request.await.map_err(|error| error.to_string())?;
            accepted(answer).await.map_err(|error| error.to_string())?;
            Ok::<Duration, String>(due.elapsed())
        });
        while let Some(done) = running.try_join_next() {
            delays.push(done??);
        }
    }
    while let Some(done) = running.join_next().await {
        delays.push(done??);
    }
    delays.sort_unstable();
    Ok(delays)
}

async fn accepted(answer: reqwest::Response) -> Result<(), Box<dyn Error>> {
    let answer: Value = answer.json().await?;
    match answer["statusCode"] == 0 {
        true => Ok(()),
        false => Err(answer.to_string().into()),
    }
}
