//! Secrets stand where they are kept and nowhere else: not in the log at its loudest, in nothing
//! that is printed, in no file that others may read. And passwords that are set while it runs.

use crate::support::callers::write_token;
use crate::support::certificates::Certificates;
use crate::support::issuer::{self, AUDIENCE, CLIENT, TestIssuer};
use crate::support::process::{Process, write_private};
use crate::support::rest_client::RestClient;
use crate::support::server::{AGENT, COLLEAGUE, CUSTOMER, SUPERVISOR, describe};
use crate::support::talk::{COACH, PATIENCE, Trio};
use crate::support::wait;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use nix::sys::signal::Signal;
use reqwest::header::{AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE};
use reqwest::{StatusCode, Url};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use undertone::config::ha1s_of;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneTls};
use undertone::telephony::callers::BearerToken;
use undertone::telephony::connection::remote;
use undertone::telephony::proto;
use undertone::telephony::proto::telephony_client::TelephonyClient;

/// What was used, and must be found nowhere.
#[derive(Default)]
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn add(&mut self, what: impl Into<String>, secret: impl AsRef<[u8]>) {
        let secret = secret.as_ref().to_vec();
        assert!(secret.len() >= 8, "short ones are found everywhere");
        self.0.push((what.into(), secret));
    }

    /// Those that a text has: in clear, in base64 wherever they begin, in hexadecimal, or as the
    /// numbers of their octets.
    fn found_in(&self, text: &[u8]) -> Vec<&str> {
        let is_in = |needle: &[u8]| text.windows(needle.len()).any(|part| part == needle);
        let has = |secret: &[u8]| spellings(secret).iter().any(|spelling| is_in(spelling));
        self.0.iter().filter(|(_, secret)| has(secret)).map(|(what, _)| what.as_str()).collect()
    }
}

fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let numbers = format!("{secret:?}");
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers = numbers.trim_matches(['[', ']']).as_bytes().to_vec();
    let mut all = vec![secret.to_vec(), numbers, hex.into_bytes()];
    for offset in 0..3 {
        let shifted = [vec![0; offset], secret.to_vec()].concat();
        // Characters that are of the secret alone: the first and the last are of others, too.
        let (first, last) = ((offset * 8).div_ceil(6), shifted.len() * 8 / 6);
        for encoded in [STANDARD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            all.push(encoded.as_bytes()[first..last].to_vec());
        }
    }
    all
}

/// The files below a folder that others than their owner may read, with their paths.
fn open_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            found.extend(open_files(&path));
        } else if about.is_file() && about.permissions().mode() & 0o077 != 0 {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found
}

fn undertone(place: &Path, arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    command.current_dir(place).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// What stands between `from` and `to` in each SIP message of a phone.
fn in_messages(phone: &Phone, from: &str, to: &str) -> Vec<String> {
    let texts = phone.trace().into_iter().map(|traced| traced.text);
    let between = |text: String| {
        let parts = text.split(from).skip(1).filter_map(|rest| rest.split(to).next());
        parts.map(str::to_owned).collect::<Vec<_>>()
    };
    texts.flat_map(between).filter(|text| text.len() >= 8).collect()
}

/// The address that SIP over TLS is at.
fn sip_tls(process: &Process) -> SocketAddr {
    let log = process.log();
    let line = log.iter().find_map(|line| line.split_once("SIP on TLS ")).unwrap();
    line.1.split_whitespace().next().unwrap().parse().unwrap()
}

const TOKEN: &str = "crm-token-0123456789-abcdefghijklmnopqrstuvwxyz";
const WRONG_TOKEN: &str = "wrong-token-0123456789-abcdefghijklmnopqrstuvwx";
const CLIENT_SECRET: &str = "client-secret-0123456789-abcdefghij";
const CODE: &str = "code-0123456789-abcdefghijklmnop";
const GUESS: &str = "a-wrong-guess-of-a-password";
const IDENTITY: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6InBhc3Nwb3J0In0.cGF5bG9hZA.c2lnbmF0dXJl";
const THEIR_KEY: &str = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";
/// The answer to wrong credentials.
const REFUSED: StatusCode = StatusCode::FORBIDDEN;
const CANARY: &str = "canary-that-is-logged";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_in_the_loudest_log_in_what_is_printed_or_in_a_file_for_others() {
    let place = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let pair = certificates.server();
    let token_file = place.path().join("crm");
    write_token(&token_file, TOKEN);
    let issuer = TestIssuer::start().await;
    let more = format!(
        "[log]\nfilter = 'trace'\npersonal_data = true\n\
         [tls]\ncertificate = '{}'\nkey = '{}'\nadmin_certificate = ''\n\
         [[grpc.caller]]\nname = 'crm'\nrole = 'observer'\ntoken_file = '{}'\n\
         [[identity.issuer]]\nname = 'test'\nissuer = '{}'\naudience = ['{AUDIENCE}']\n\
         client_id = '{CLIENT}'\nclient_secret = '{CLIENT_SECRET}'\n",
        pair.certificate.display(),
        pair.key.display(),
        token_file.display(),
        issuer.url(),
    );
    let text = describe(place.path(), &more)
        .replace("'tcp:127.0.0.1:0'", "'tcp:127.0.0.1:0', 'tls:127.0.0.1:0'");
    let number = format!("number = '{}'\n", AGENT.number);
    let text =
        text.replace(&number, &format!("{number}srtp = 'optional'\nsrtp_over_clear = true\n"));
    let mut secrets = Secrets::default();
    for account in [SUPERVISOR, AGENT, CUSTOMER, COLLEAGUE] {
        secrets.add(format!("the password of {}", account.number), account.password);
        for (algorithm, ha1) in ha1s_of("undertone", account.number, account.password) {
            let what = format!("HA1 of {} by {}", account.number, algorithm.name());
            secrets.add(what, ha1.expose().as_bytes());
        }
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("password_hash = '")) {
        secrets.add("a password hash", line.trim_end_matches('\''));
    }
    secrets.add("the token of a service", TOKEN);
    secrets.add("a wrong token", WRONG_TOKEN);
    secrets.add("a wrong password", GUESS);
    let key = fs::read_to_string(&pair.key).unwrap();
    key.lines().filter(|line| line.len() > 40 && !line.starts_with('-')).for_each(|line| {
        secrets.add("a line of the TLS key", line);
    });

    let process = Process::start("serve", place.path(), &text).await;
    process.ready().await;

    // REST: Basic, a cookie, wrong and malformed credentials.
    let http = certificates.http_client();
    let base = format!("https://127.0.0.1:{}/api/v2", process.door("rest").port());
    let client =
        |user: &str, password: &str| RestClient::with(http.clone(), base.clone(), user, password);
    let supervisor = client(SUPERVISOR.user, SUPERVISOR.password);
    let answer = supervisor.getting("/me").send().await.unwrap();
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
    let (name, value) = cookie.split_once('=').unwrap();
    secrets.add("a session's cookie", value);
    let by_cookie = http.get(format!("{base}/me")).header(COOKIE, cookie).send().await.unwrap();
    assert_eq!(by_cookie.status(), StatusCode::OK, "the cookie is one");
    for credentials in [
        format!("Basic {}", STANDARD.encode(format!("{}:{GUESS}", SUPERVISOR.user))),
        format!("Basic {GUESS}"),
        format!("Basic {}=={GUESS}", STANDARD.encode(GUESS)),
        format!("Bearer {WRONG_TOKEN}"),
        format!("Digest response=\"{GUESS}\""),
    ] {
        let asked = http.get(format!("{base}/me")).header(AUTHORIZATION, &credentials);
        let refused = match credentials.starts_with("Bearer") {
            true => StatusCode::UNAUTHORIZED,
            false => REFUSED,
        };
        assert_eq!(asked.send().await.unwrap().status(), refused, "{credentials}");
    }
    let asked = http.get(format!("{base}/me")).header(COOKIE, format!("{name}=\"{GUESS}"));
    assert_ne!(asked.send().await.unwrap().status(), StatusCode::OK);
    let canary = client(CANARY, GUESS).getting("/me").send().await.unwrap();
    assert_eq!(canary.status(), REFUSED);

    // Tokens of the issuer, a good one and one that was altered, and a login by a code.
    let access = issuer.token(SUPERVISOR.user);
    let altered = format!("{}AAAA{}", &access[..access.len() - 8], &access[access.len() - 4..]);
    for (token, status) in [(&access, StatusCode::OK), (&altered, StatusCode::UNAUTHORIZED)] {
        let asked = http.get(format!("{base}/me")).bearer_auth(token);
        assert_eq!(asked.send().await.unwrap().status(), status);
        secrets.add("an access token", token);
        secrets.add("its claims", token.split('.').nth(1).unwrap());
        secrets.add("its signature", token.rsplit('.').next().unwrap());
    }
    secrets.add("the secret that we have at the issuer", CLIENT_SECRET);
    let browser = reqwest::Client::builder()
        .tls_backend_preconfigured(certificates.client().config(&[b"http/1.1"]).unwrap())
        .redirect(reqwest::redirect::Policy::none())
        .cookie_store(true)
        .no_proxy()
        .build()
        .unwrap();
    let sent = browser.get(format!("{base}/login")).send().await.unwrap();
    let at = Url::parse(sent.headers()[LOCATION].to_str().unwrap()).unwrap();
    let asked = |name: &str| at.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    let (state, nonce) = (asked("state"), asked("nonce"));
    let id_token = issuer.key.sign(
        &issuer.key.header("JWT"),
        &json!({
            "iss": issuer.url(), "aud": CLIENT, "sub": SUPERVISOR.user, "nonce": nonce,
            "iat": issuer::now(), "exp": issuer::now() + 600,
        }),
    );
    issuer
        .answer(200, json!({"id_token": id_token, "access_token": access, "token_type": "Bearer"}));
    let back = format!("{base}/login/callback?code={CODE}&state={state}&iss={}", issuer.url());
    let logged_in = browser.get(back).send().await.unwrap();
    assert_eq!(logged_in.status(), StatusCode::SEE_OTHER, "{:?}", logged_in.text().await);
    assert!(issuer.asked().iter().any(|form| form.contains(CODE)), "the code was exchanged");
    secrets.add("the code of a login", CODE);
    secrets.add("the ID token of a login", &id_token);
    for (name, secret) in [("state", state), ("nonce", nonce)] {
        secrets.add(format!("the {name} of a login"), secret);
    }

    // A head that is none, on a connection by itself; a websocket.
    let tls = certificates.client();
    let open = async || {
        let stream = TcpStream::connect(process.door("rest")).await.unwrap();
        tls.connect("127.0.0.1", stream, &[b"http/1.1"]).await.unwrap()
    };
    for head in [
        format!("GET /me HTTP/1.1\r\nAuthorization: Basic {GUESS}\r\nno field\r\n\r\n"),
        format!("GET /me HTTP/1.1\r\nHost: x\r\nCookie: {name}={GUESS}\r\nBad\0: y\r\n\r\n"),
    ] {
        let mut line = open().await;
        line.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = line.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut upgrade = "wss://127.0.0.1/api/v2/notifications".into_client_request().unwrap();
    let basic = format!("{}:{}", SUPERVISOR.user, SUPERVISOR.password);
    let basic = format!("Basic {}", STANDARD.encode(basic));
    upgrade.headers_mut().insert("authorization", basic.parse().unwrap());
    upgrade.headers_mut().insert("cookie", cookie.parse().unwrap());
    let (socket, _) = tokio_tungstenite::client_async(upgrade, open().await).await.unwrap();
    drop(socket);

    // gRPC: a token, a wrong one.
    let url = format!("https://127.0.0.1:{}", process.door("grpc").port());
    let describe = async |file: &Path| {
        let token = BearerToken::of_file(file, &url).unwrap();
        let mut client = TelephonyClient::new(remote(&url, tls.clone(), token).unwrap());
        client.describe(proto::DescribeRequest::default()).await
    };
    describe(&token_file).await.expect("the token is the service's");
    let wrong_file = place.path().join("wrong");
    write_token(&wrong_file, WRONG_TOKEN);
    describe(&wrong_file).await.expect_err("the token is nobody's");
    let local = fs::read_to_string(place.path().join("grpc-token")).unwrap();
    secrets.add("the token of the state directory", local.trim());

    // SIP: a coached call, a phone over TLS, wrong digests, malformed messages with keys in them.
    let phones = Trio::register(process.door("sip")).await;
    let coach = json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("{base}/devices/{}", AGENT.device),
    });
    supervisor.post(&format!("/me/devices/{}", SUPERVISOR.device), coach).await;
    phones.call().await;
    phones.hear(COACH).await;
    let colleague =
        PhoneConfig::new(COLLEAGUE.number, COLLEAGUE.password, sip_tls(&process), 700.0);
    let phone_tls = PhoneTls { client: tls.clone(), name: "127.0.0.1".to_owned(), sips: true };
    let colleague = Phone::start(colleague.over(phone_tls)).await.unwrap();
    colleague.register().await.expect("over TLS");
    let guessing = PhoneConfig::new(CUSTOMER.number, GUESS, process.door("sip"), 700.0);
    let guessing = Phone::start(guessing.answering(AnswerPolicy::Never)).await.unwrap();
    guessing.register().await.expect_err("a wrong password");
    for phone in [&phones.customer, &phones.agent, &phones.supervisor, &colleague, &guessing] {
        let responses = in_messages(phone, "response=\"", "\"");
        assert!(!responses.is_empty(), "it has answered a challenge");
        responses.iter().for_each(|response| secrets.add("a digest response", response));
    }
    let keys = in_messages(&phones.agent, "inline:", "\r\n");
    assert!(!keys.is_empty(), "the agent is offered SRTP");
    keys.iter().for_each(|key| secrets.add("a key of SRTP", key.split('|').next().unwrap()));
    secrets.add("a key of SRTP that was sent", THEIR_KEY);
    secrets.add("an Identity", IDENTITY);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let here = socket.local_addr().unwrap();
    for (broken, body) in [("CSeq: 1 INVITE", ""), ("CSeq: nonsense", "v=0\r\n"), ("", "junk")] {
        let body = format!("{body}a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{THEIR_KEY}\r\n");
        let message = format!(
            "INVITE sip:5001@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{}\r\n\
             From: <sip:7001@undertone>;tag=1\r\nTo: <sip:5001@undertone>\r\nCall-ID: x@{here}\r\n\
             {broken}\r\nContact: <sip:7001@{here}>\r\nMax-Forwards: 70\r\nIdentity: {IDENTITY}\r\n\
             Authorization: Digest username=\"7001\", response=\"{GUESS}\", nonce=\"{GUESS}\"\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len(),
            body.len()
        );
        socket.send_to(message.as_bytes(), process.door("sip")).await.unwrap();
    }
    let mut answer = [0; 2048];
    let answered = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await;
    answered.expect("one of them is answered").unwrap();

    process.signal(Signal::SIGHUP);
    let reread = async || {
        let log = process.log();
        log.iter().any(|line| line.contains("are read again")).then_some(())
    };
    wait::found(PATIENCE, reread).await.expect("SIGHUP is obeyed");
    let log = process.log.clone();
    let printed = process.terminate(PATIENCE).await;
    let log = log.lock().unwrap().join("\n");

    // The grep finds what is there: what was logged, and each secret once it is planted.
    assert!(log.contains(CANARY), "the name of a refused login is logged");
    assert!(log.contains(" TRACE undertone") || log.contains(" DEBUG undertone"), "it is loud");
    let foreign = log.lines().find(|line| line.contains(" TRACE ") && !line.contains("undertone"));
    assert_eq!(foreign, None, "libraries are not heard at TRACE");
    for (what, secret) in &secrets.0 {
        for spelling in spellings(secret) {
            let planted = [b"a line with ".as_slice(), &spelling, b" in it"].concat();
            assert!(secrets.found_in(&planted).contains(&what.as_str()), "{what} is not found");
        }
    }
    assert_eq!(secrets.found_in(log.as_bytes()), Vec::<&str>::new(), "in the log");
    assert_eq!(secrets.found_in(printed.as_bytes()), Vec::<&str>::new(), "printed");
    for (path, bytes) in open_files(place.path()) {
        assert_eq!(secrets.found_in(&bytes), Vec::<&str>::new(), "in {}", path.display());
    }
    let audit = fs::read(place.path().join("audit.jsonl")).unwrap();
    assert_eq!(secrets.found_in(&audit), Vec::<&str>::new(), "in the audit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_set_while_it_runs_and_what_the_old_one_opened_ends() {
    let place = tempfile::tempdir().unwrap();
    let text = describe(place.path(), "") + "[[user]]\nid = 'meg'\nroles = ['Agent']\n";
    let process = Process::start("serve", place.path(), &text).await;
    process.ready().await;
    let made = place.path().join("made-passwords.txt");
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o600);
    let made = fs::read_to_string(made).unwrap();
    let old = made.trim_end().strip_prefix("REST meg ").unwrap().to_owned();
    let status = async |password: &str| {
        let client = RestClient::new(process.door("rest"), "meg", password);
        client.getting("/me").send().await.unwrap().status()
    };
    let answer = RestClient::new(process.door("rest"), "meg", &old).getting("/me").send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
    let by_cookie = async || {
        let url = format!("http://{}/api/v2/me", process.door("rest"));
        let http = crate::support::rest_client::http_client();
        http.get(url).header(COOKIE, cookie).send().await.unwrap().status()
    };
    assert_eq!(by_cookie().await, StatusCode::OK);

    let words = ["password", "--config", "serve.toml", "--password-file", "-"];
    let set = |user: &str, password: &str| {
        undertone(place.path(), &[&words[..], &[user]].concat(), &format!("{password}\n"))
    };
    let (done, said) = set("meg", "the new password");
    assert!(done && said.contains("meg: the new password is in use"), "{said}");
    assert_eq!(status("the new password").await, StatusCode::OK);
    assert_eq!(status(&old).await, REFUSED);
    assert_ne!(by_cookie().await, StatusCode::OK, "the session has ended");
    let log = process.log().join("\n");
    assert!(log.contains("meg (password)"), "the change is named: {log}");

    let (done, said) = set("nobody", "the new password");
    assert!(!done && said.contains("there is no user 'nobody'"), "{said}");
    let (done, said) = set(SUPERVISOR.user, "the new password");
    assert!(!done && said.contains("stands in the configuration file"), "{said}");
    let (done, said) = set("meg", "");
    assert!(!done && said.contains("the password is empty"), "{said}");

    process.terminate(PATIENCE).await;
    let (done, said) = set("meg", "a third password");
    assert!(done && said.contains("the next one takes the new password"), "{said}");
    let process = Process::start("serve", place.path(), &text).await;
    process.ready().await;
    for (password, expected) in
        [("a third password", StatusCode::OK), ("the new password", REFUSED)]
    {
        let client = RestClient::new(process.door("rest"), "meg", password);
        assert_eq!(client.getting("/me").send().await.unwrap().status(), expected);
    }
    let audit = fs::read_to_string(place.path().join("audit.jsonl")).unwrap();
    let told = audit.matches("users changed: meg (password)").count();
    assert_eq!(told, 2, "that which was left while nothing ran, too: {audit}");
    assert_eq!(fs::read_dir(place.path().join("new-passwords")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_in_files_of_their_own_are_read_again_when_they_change() {
    let place = tempfile::tempdir().unwrap();
    let hash = |password: &str| {
        let (done, hash) =
            undertone(place.path(), &["hash", "--password-file", "-"], &format!("{password}\n"));
        assert!(done && hash.starts_with("$argon2id$"), "{hash}");
        hash
    };
    let (hash_file, sip_file) = (place.path().join("meg.hash"), place.path().join("phone"));
    write_private(&hash_file, &hash("the first one"));
    write_private(&sip_file, "a phone's password\n");
    let text = describe(place.path(), "")
        + &format!(
            "[[user]]\nid = 'meg'\nroles = ['Agent']\npassword_hash_file = '{}'\n",
            hash_file.display()
        )
        + &format!(
            "[[device]]\nid = 'megs'\nnumber = '5020'\npassword_file = '{}'\n",
            sip_file.display()
        );
    let process = Process::start("serve", place.path(), &text).await;
    process.ready().await;
    let is_let_in = async |password: &str| {
        let client = RestClient::new(process.door("rest"), "meg", password);
        client.getting("/me").send().await.unwrap().status() == StatusCode::OK
    };
    assert!(is_let_in("the first one").await);
    let register = async |password: &str| {
        let phone = PhoneConfig::new("5020", password, process.door("sip"), 700.0);
        Phone::start(phone).await.unwrap().register().await
    };
    register("a phone's password").await.expect("the password of the file");
    write_private(&hash_file, &hash("the second one"));
    let changed = async || is_let_in("the second one").await.then_some(());
    wait::found(PATIENCE, changed).await.expect("the file is looked at");
    assert!(!is_let_in("the first one").await);
    write_private(&sip_file, "another password\n");
    process.signal(Signal::SIGHUP);
    let changed = async || register("another password").await.is_ok().then_some(());
    wait::found(PATIENCE, changed).await.expect("SIGHUP is obeyed");

    // The user goes, and the file with the hash with the user; nobody says so.
    let user = text.find("[[user]]\nid = 'meg'").unwrap();
    let end = user + text[user..].find("[[device]]").unwrap();
    fs::remove_file(&hash_file).unwrap();
    write_private(&place.path().join("serve.toml"), &[&text[..user], &text[end..]].concat());
    let gone = async || (!is_let_in("the second one").await).then_some(());
    wait::found(PATIENCE, gone).await.expect("who is taken out is out");
}

/// Root sets a password of a gateway that runs as somebody else, who has put a link in its way.
#[test]
fn root_goes_no_further_in_a_state_directory_than_its_owner_may() {
    const SOMEBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (place, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = format!("{}[[user]]\nid = 'meg'\nroles = ['Agent']\n", describe(state.path(), ""));
    write_private(&place.path().join("serve.toml"), &text);
    let set = |password: &str| {
        let words = ["password", "meg", "--config", "serve.toml", "--password-file", "-"];
        undertone(place.path(), &words, password)
    };
    let give =
        |path: &Path| std::os::unix::fs::chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    give(state.path());
    // What only root may write.
    let roots = tempfile::tempdir().unwrap();
    let link = state.path().join("new-passwords");
    std::os::unix::fs::symlink(roots.path(), &link).unwrap();
    let (done, said) = set("a new password\n");
    assert!(!done && said.contains("denied"), "{said}");
    assert_eq!(roots.path().metadata().unwrap().uid(), 0, "it is root's as before");
    assert_eq!(fs::read_dir(roots.path()).unwrap().count(), 0);
    fs::remove_file(&link).unwrap();
    let (done, said) = set("a new password\n");
    assert!(done, "{said}");
    for file in
        [link.clone(), link.join(fs::read_dir(&link).unwrap().next().unwrap().unwrap().path())]
    {
        assert_eq!(file.metadata().unwrap().uid(), SOMEBODY, "{}", file.display());
    }
}
