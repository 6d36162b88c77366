//! The other ways in: forms, callback-polling, HTTP/2; several tabs, acknowledgements, clocks,
//! limits, and the end.

use super::{
    ENDPOINT, PollingSession, data, handshake, is_event, open, open_with, reply, say, send,
};
use crate::support::cometd_connection::{By, CometdConnection};
use crate::support::gateway_server::{GatewayServer, PASSWORD, PATIENCE, ServerOptions};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use undertone::cometd::CometdConfig;
use undertone::http;

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn forms_carry_messages_once_or_several_times() {
    let server = open().await;
    let form = async |body: String| {
        let request = server
            .posting(ENDPOINT)
            .basic_auth("meg", Some(PASSWORD))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8")
            .body(body);
        request.send().await.expect("an answer")
    };
    let shaken: Value = form(format!("message={}", encoded(&json!([handshake()]).to_string())))
        .await
        .json()
        .await
        .expect("JSON");
    let id = shaken[0]["clientId"].as_str().expect("an id");
    let one = encoded(
        &json!({"channel": "/meta/subscribe", "clientId": id, "subscription": "/x/a", "id": "1"})
            .to_string(),
    );
    let two = encoded(
        &json!([{"channel": "/x/a", "clientId": id, "data": "ü+ &=%", "id": "2"}]).to_string(),
    );
    let both: Value =
        form(format!("message={one}&other=x&message={two}")).await.json().await.expect("JSON");
    assert_eq!((&both[0]["id"], &both[1]["id"]), (&json!("1"), &json!("2")));
    let desktop = PollingSession { server: &server, user: "meg", id: id.to_owned() };
    assert_eq!(data(&desktop.connect().await), [json!("ü+ &=%")]);
    for body in ["", "message=", "message=%7B", "message=[]", "jsonp=x"] {
        assert_eq!(form(body.to_owned()).await.status(), StatusCode::BAD_REQUEST, "{body}");
    }
}

async fn with_callbacks() -> GatewayServer {
    open_with(CometdConfig { callback_polling: true, ..CometdConfig::default() }).await
}

fn callback_url(name: &str, messages: &Value) -> String {
    format!("{ENDPOINT}?jsonp={}&message={}", encoded(name), encoded(&messages.to_string()))
}

#[tokio::test]
async fn c36_a_callback_is_called_with_the_answer() {
    let server = with_callbacks().await;
    let call = async |messages: Value| {
        let request =
            server.getting(&callback_url("cb", &messages)).basic_auth("meg", Some(PASSWORD));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        assert!(
            headers[header::CONTENT_TYPE].to_str().expect("text").starts_with("text/javascript")
        );
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment; filename=f.txt");
        let script = response.text().await.expect("a script");
        let json = script
            .strip_prefix("/**/cb(")
            .and_then(|rest| rest.strip_suffix(");"))
            .expect("a call");
        serde_json::from_str::<Vec<Value>>(json).expect("an array")
    };
    let shaken = call(
        json!([{"channel": "/meta/handshake", "supportedConnectionTypes": ["callback-polling"]}]),
    )
    .await;
    assert_eq!(
        shaken[0]["supportedConnectionTypes"],
        json!(["websocket", "long-polling", "callback-polling"])
    );
    let id = shaken[0]["clientId"].clone();
    let connect =
        json!([{"channel": "/meta/connect", "clientId": id, "connectionType": "callback-polling"}]);
    call(connect.clone()).await;
    call(json!([{"channel": "/meta/subscribe", "clientId": id, "subscription": "/x/a"}])).await;
    PollingSession::new(&server, "bob").await.publish("/x/a", json!("a\u{2028}b")).await;
    assert_eq!(data(&call(connect).await), [json!("a\u{2028}b")]);
}

#[tokio::test]
async fn d13_a_callback_is_a_plain_name_and_never_answers_a_cookie_and_is_off_unless_wanted() {
    let server = with_callbacks().await;
    let status = async |url: String| {
        let request = server.getting(&url).basic_auth("meg", Some(PASSWORD));
        request.send().await.expect("an answer").status()
    };
    let shake = json!([handshake()]);
    for name in ["alert(1)//", "a\r\nb", "", "a b", "ä", &"a".repeat(65)] {
        assert_eq!(status(callback_url(name, &shake)).await, StatusCode::BAD_REQUEST, "{name:?}");
    }
    let long = callback_url(&"a".repeat(10_240), &shake);
    assert!(status(long).await.is_client_error());
    assert_eq!(status(callback_url(&"a".repeat(64), &shake)).await, StatusCode::OK);
    assert_eq!(status(callback_url("a.b_c-D1", &shake)).await, StatusCode::OK);

    let browser = server.browser();
    let login = browser.get(server.url("/api/v2/me")).basic_auth("meg", Some(PASSWORD));
    assert_eq!(login.send().await.expect("an answer").status(), StatusCode::OK);
    let by_cookie =
        browser.get(server.url(&callback_url("cb", &shake))).send().await.expect("an answer");
    assert_eq!(by_cookie.status(), StatusCode::FORBIDDEN);

    let server = open().await;
    let off = server.getting(&callback_url("cb", &shake)).basic_auth("meg", Some(PASSWORD));
    assert_eq!(off.send().await.expect("an answer").status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn http_2_carries_as_many_held_connects_as_there_are_tabs() {
    let server = open().await;
    let browser = crate::support::rest_client::client_builder()
        .no_proxy()
        .http2_prior_knowledge()
        .cookie_store(true)
        .timeout(PATIENCE)
        .build()
        .expect("a client");
    let say = async |messages: Value| {
        let request =
            browser.post(server.url(ENDPOINT)).basic_auth("meg", Some(PASSWORD)).json(&messages);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.version(), reqwest::Version::HTTP_2);
        response.json::<Vec<Value>>().await.expect("an array")
    };
    let mut load = server.bayeux.load();
    let mut tabs = JoinSet::new();
    for count in 1..=3 {
        let id = say(json!([handshake()])).await[0]["clientId"].clone();
        let connect =
            json!([{"channel": "/meta/connect", "clientId": id, "connectionType": "long-polling"}]);
        say(connect.clone()).await;
        say(json!([{"channel": "/meta/subscribe", "clientId": id, "subscription": "/x/a"}])).await;
        let request =
            browser.post(server.url(ENDPOINT)).basic_auth("meg", Some(PASSWORD)).json(&connect);
        tabs.spawn(async move {
            request.send().await.expect("an answer").json::<Vec<Value>>().await.expect("an array")
        });
        let held = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.held == count)).await;
        drop(held.expect("held in time").expect("an event channel"));
    }
    PollingSession::new(&server, "bob").await.publish("/x/a", json!(1)).await;
    while let Some(answer) = tabs.join_next().await {
        assert_eq!(data(&answer.expect("an answer")), [json!(1)]);
    }
}

#[tokio::test]
async fn c37_a_second_tab_polls_until_the_first_makes_room() {
    let server = open().await;
    let browser = server.browser();
    let sending = |messages: Value| {
        browser.post(server.url(ENDPOINT)).basic_auth("meg", Some(PASSWORD)).json(&messages)
    };
    let connect = |id: &Value| {
        json!([{
            "channel": "/meta/connect", "clientId": id, "connectionType": "long-polling",
        }])
    };
    let mut tabs = Vec::new();
    for _ in 0..2 {
        let id = send(sending(json!([handshake()]))).await[0]["clientId"].clone();
        send(sending(connect(&id))).await;
        tabs.push(id);
    }
    let mut load = server.bayeux.load();
    let first = tokio::spawn(send(sending(connect(&tabs[0]))));
    let held = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.held == 1)).await;
    drop(held.expect("in time").expect("an event channel"));
    let second = send(sending(connect(&tabs[1]))).await;
    assert_eq!(second[0]["successful"], true);
    let advice = &second[0]["advice"];
    assert_eq!(
        (&advice["multiple-clients"], &advice["reconnect"]),
        (&json!(true), &json!("retry"))
    );
    assert!(advice["interval"].as_u64() > Some(0));
    send(sending(json!([{"channel": "/meta/disconnect", "clientId": tabs[0]}]))).await;
    first.await.expect("an answer");
    let second = tokio::spawn(send(sending(connect(&tabs[1]))));
    let held = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.held == 1)).await;
    drop(held.expect("the place is free").expect("an event channel"));
    second.abort();
}

#[tokio::test]
async fn c40_to_c42_events_come_with_numbered_connect_replies_until_they_are_acknowledged() {
    let server = open().await;
    for ack in [json!(true), json!({"enabled": true})] {
        let mut shake = handshake();
        shake["ext"] = json!({"ack": ack});
        let shaken = say(&server, "meg", &json!([shake])).await;
        assert_eq!(shaken[0]["ext"]["ack"], true);
        let desktop = PollingSession {
            server: &server,
            user: "meg",
            id: shaken[0]["clientId"].as_str().expect("an id").to_owned(),
        };
        let connect = async |ack: i64| {
            desktop
                .say(
                    "/meta/connect",
                    json!({
                        "connectionType": "long-polling",
                        "ext": {"ack": ack},
                        "advice": {"timeout": 0},
                    }),
                )
                .await
        };
        let batch = |answer: &[Value]| reply(answer)["ext"]["ack"].as_i64().expect("a number");
        let first = batch(&connect(-1).await);
        let second = batch(&connect(first).await);
        assert!(second > first);
        assert_eq!(desktop.subscribe(&json!("/x/a")).await["successful"], true);
        let published = desktop.say("/x/a", json!({"data": 1})).await;
        assert_eq!(published.iter().filter(|message| is_event(message)).count(), 0, "C41");
        let came = connect(second).await;
        assert_eq!(data(&came), [json!(1)]);
        let again = connect(second).await;
        assert_eq!(data(&again), [json!(1)], "the answer was lost");
        assert!(batch(&again) > batch(&came));
        assert_eq!(data(&connect(batch(&again)).await), Vec::<Value>::new());
        desktop.say("/meta/disconnect", json!({})).await;
    }
}

#[tokio::test]
async fn g10_the_clock_is_answered() {
    let server = open().await;
    let mut shake = handshake();
    shake["ext"] = json!({"timesync": {"tc": 1_700_000_000_000_u64, "l": 0, "o": 0}});
    let sync = say(&server, "meg", &json!([shake])).await[0]["ext"]["timesync"].clone();
    assert_eq!(sync["tc"], 1_700_000_000_000_u64);
    let (ts, a) = (sync["ts"].as_i64().expect("a number"), sync["a"].as_i64().expect("a number"));
    assert_eq!(a, 1_700_000_000_000 - ts);
    assert!(ts > 1_700_000_000_000 && sync["p"].as_i64() >= Some(0), "{sync}");
}

#[tokio::test]
async fn g06_a_preflight_is_answered_on_the_whole_subtree_for_allowed_origins_only() {
    let server = GatewayServer::open(ServerOptions {
        http: http::HttpConfig {
            cors_origins: vec!["https://desk.example".to_owned()],
            ..http::HttpConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    for path in ["", "/", "/handshake", "/connect"] {
        let ask = async |origin: &str| {
            crate::support::rest_client::client_builder()
                .no_proxy()
                .build()
                .expect("a client")
                .request(reqwest::Method::OPTIONS, server.url(&format!("{ENDPOINT}{path}")))
                .header(header::ORIGIN, origin)
                .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
                .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "content-type")
                .send()
                .await
                .expect("an answer")
        };
        let allowed = ask("https://desk.example").await;
        assert!(allowed.status().is_success(), "{path}");
        let value = |name: header::HeaderName| {
            allowed.headers()[name].to_str().expect("text").to_ascii_lowercase()
        };
        assert_eq!(value(header::ACCESS_CONTROL_ALLOW_ORIGIN), "https://desk.example");
        assert_eq!(value(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), "true");
        assert!(value(header::ACCESS_CONTROL_ALLOW_METHODS).contains("post"));
        assert!(value(header::ACCESS_CONTROL_ALLOW_HEADERS).contains("content-type"));
        assert!(value(header::VARY).contains("origin"));
        let foreign = ask("https://evil").await;
        assert!(!foreign.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{path}");
        assert!(
            !foreign.headers().contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g09_going_down_answers_a_thousand_held_polls_and_spreads_their_return() {
    const POLLS: usize = 1_000;
    let server = open_with(CometdConfig {
        max_sessions_per_user: POLLS,
        handshakes_per_user: 1_000,
        ..CometdConfig::default()
    })
    .await;
    let mut polls = JoinSet::new();
    let mut load = server.bayeux.load();
    for _ in 0..POLLS {
        let mut line = CometdConnection::open(server.address, By::Poll, "meg").await;
        line.send(&json!([handshake()])).await;
        let id = line.receive().await.expect("open")[0]["clientId"].clone();
        let connect =
            json!([{"channel": "/meta/connect", "clientId": id, "connectionType": "long-polling"}]);
        line.send(&connect).await;
        line.receive().await.expect("open");
        line.send(&connect).await;
        polls.spawn(async move { line.receive().await });
    }
    let held = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.held == POLLS)).await;
    drop(held.expect("in time").expect("an event channel"));
    server.close().await;
    let mut intervals = Vec::new();
    while let Some(answer) = polls.join_next().await {
        let answer = answer.expect("a task").expect("200, and no connection was reset");
        let advice = &answer[0]["advice"];
        assert_eq!(
            (&answer[0]["successful"], &advice["reconnect"]),
            (&json!(true), &json!("retry"))
        );
        intervals.push(advice["interval"].as_u64().expect("milliseconds"));
    }
    intervals.sort_unstable();
    let window = 5_000;
    assert!(intervals.iter().all(|interval| (1_000..1_000 + window).contains(interval)));
    for tenth in 0..10 {
        let from = 1_000 + tenth * window / 10;
        let count = intervals
            .iter()
            .filter(|interval| (from..from + window / 10).contains(interval))
            .count();
        assert!(
            (POLLS / 20..POLLS / 5).contains(&count),
            "{count} of {POLLS} come back {from} ms later"
        );
    }
}

#[tokio::test]
async fn what_is_too_much_is_said_and_ends_nobody_elses_session() {
    let server = open_with(CometdConfig {
        max_subscriptions: 2,
        handshakes_per_user: 1,
        max_sessions_per_address: 12,
        ..CometdConfig::default()
    })
    .await;
    let bystander = PollingSession::on(&server, "kim", "/x/a").await;
    let desktop = PollingSession::on(&server, "meg", "/x/a").await;
    assert_eq!(desktop.subscribe(&json!("/x/b")).await["successful"], true);
    assert_eq!(desktop.subscribe(&json!("/x/c")).await["error"], "403::too_many_subscriptions");
    assert_eq!(desktop.subscribe(&json!("/x/a")).await["successful"], true, "it has that one");
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(say(&server, "meg", &json!([handshake()])).await.remove(0));
    }
    let refused: Vec<&Value> =
        answers.iter().filter(|answer| answer["successful"] == false).collect();
    assert!(!refused.is_empty());
    for answer in refused {
        assert_eq!(
            (&answer["error"], &answer["advice"]["reconnect"]),
            (&json!("429::too_many_handshakes"), &json!("handshake"))
        );
        assert!(answer["advice"]["interval"].as_u64() >= Some(1000), "{answer}");
    }
    let mut full = json!(null);
    for user in ["bob", "eve", "otto"] {
        for _ in 0..3 {
            full = say(&server, user, &json!([handshake()])).await.remove(0);
        }
    }
    assert_eq!(full["error"], "403::too_many_sessions");
    assert_eq!(bystander.publish("/x/a", json!(1)).await["successful"], true);
    assert_eq!(data(&bystander.connect().await), [json!(1)]);
    assert_eq!(data(&desktop.connect().await), [json!(1)]);
}

#[tokio::test]
async fn the_cookie_says_what_the_configuration_says() {
    let server = GatewayServer::open(ServerOptions {
        http: http::HttpConfig {
            public_url: "https://desk.example".to_owned(),
            ..http::HttpConfig::default()
        },
        bayeux: CometdConfig {
            same_site: undertone::cometd::SameSite::None,
            partitioned: true,
            ..CometdConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    let request =
        server.posting(ENDPOINT).basic_auth("meg", Some(PASSWORD)).json(&json!([handshake()]));
    let response = request.send().await.expect("an answer");
    let cookies = response.headers().get_all(header::SET_COOKIE).iter();
    let cookie = cookies
        .filter_map(|line| line.to_str().ok())
        .find(|line| line.starts_with("BAYEUX_BROWSER="));
    let cookie = cookie.expect("a cookie");
    for attribute in ["; Path=/", "; HttpOnly", "; SameSite=None", "; Secure", "; Partitioned"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn whoever_fails_to_log_in_too_often_is_told_in_cometds_words_when_to_come_again() {
    let server = GatewayServer::open(ServerOptions {
        auth: http::auth::AuthConfig {
            failures_per_user: std::num::NonZeroU32::MIN,
            ..http::auth::AuthConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    let shake = async |content_type: &str| {
        let request = server
            .posting(ENDPOINT)
            .basic_auth("meg", Some("wrong"))
            .header(header::CONTENT_TYPE, content_type);
        let answer = send(request.body(json!([handshake()]).to_string())).await;
        (answer[0]["error"].clone(), answer[0]["advice"].clone())
    };
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(shake("application/json").await);
    }
    // The other way in.
    answers.push(shake("text/json").await);
    assert_eq!(answers[0].0, "403::handshake_denied");
    for (error, advice) in &answers[2..] {
        assert_eq!(*error, "429::too_many_requests");
        assert_eq!(
            (&advice["reconnect"], &advice["interval"]),
            (&json!("handshake"), &json!(10_000))
        );
    }
}

/// The fast path and the HTTP library answer the same; only the library, which serves browsers'
/// pages, says what a page may read of its answers.
#[tokio::test]
async fn a_plain_poll_takes_the_short_way_anything_else_the_librarys_and_both_are_answered_alike() {
    let server = open().await;
    let head = format!(
        "POST {ENDPOINT} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\
         Content-Type: application/json\r\n",
        crate::support::cometd_connection::basic("meg")
    );
    let body = r#"[{"channel":"/meta/connect","clientId":"unknown"}]"#;
    let ask_on = async |socket: &mut tokio::net::TcpStream,
                        read: &mut Vec<u8>,
                        request: String,
                        pieces: usize|
           -> (Vec<String>, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for piece in request.as_bytes().chunks(request.len() / pieces + 1) {
            socket.write_all(piece).await.expect("sent");
            tokio::task::yield_now().await;
        }
        loop {
            let text = String::from_utf8_lossy(read).into_owned();
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let lines: Vec<String> = head.split("\r\n").map(str::to_ascii_lowercase).collect();
                let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.expect("a length").parse().expect("a number");
                if rest.len() >= length {
                    read.drain(..head.len() + 4 + length);
                    return (lines, rest[..length].to_owned());
                }
            }
            assert_ne!(socket.read_buf(read).await.expect("read"), 0, "{text}");
        }
    };
    let ask = async |socket: &mut tokio::net::TcpStream, request: String, pieces: usize| {
        ask_on(socket, &mut Vec::new(), request, pieces).await
    };
    let mut socket = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    let short = |more: &str| format!("{head}{more}Content-Length: {}\r\n\r\n{body}", body.len());
    let is_of_library = |lines: &[String]| {
        lines.iter().any(|line| line.starts_with("access-control-expose-headers:"))
    };
    let name_of = |lines: &[String]| {
        let name = lines.iter().find(|line| line.starts_with("x-request-id:"));
        name.cloned().expect("every answer has a request id")
    };
    let (plain, plain_body) = ask(&mut socket, short(""), 1).await;
    assert!(!is_of_library(&plain), "{plain:?}");
    let (again, _) = ask(&mut socket, short(""), 1).await;
    assert!(!is_of_library(&again), "a second one on the same connection");
    assert_ne!(name_of(&plain), name_of(&again));
    let (other, other_body) = ask(&mut socket, short("X-Request-Id: seen\r\n"), 1).await;
    assert!(is_of_library(&other), "{other:?}");
    assert_eq!(plain_body, other_body);
    assert_eq!(name_of(&other), "x-request-id: seen");
    let names = |lines: &[String]| -> std::collections::BTreeSet<String> {
        let names =
            lines[1..].iter().map(|line| line.split(':').next().unwrap_or_default().to_owned());
        names.filter(|name| name != "access-control-expose-headers").collect()
    };
    assert_eq!(names(&plain), names(&other));
    let (after, _) = ask(&mut socket, short(""), 1).await;
    assert!(is_of_library(&after), "the rest of a connection's life is the library's");

    for pieces in [2, 7, 40] {
        let mut socket =
            tokio::net::TcpStream::connect(server.address).await.expect("a connection");
        assert_eq!(ask(&mut socket, short(""), pieces).await.1, plain_body, "in {pieces} pieces");
    }
    // Two requests at once are answered one after the other.
    let mut socket = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    let two = format!("{}{}", short(""), short("X-Request-Id: second\r\n"));
    let mut read = Vec::new();
    let (first, _) = ask_on(&mut socket, &mut read, two, 1).await;
    assert!(!is_of_library(&first));
    // Sooner than anything that only waits would look again.
    let soon = std::time::Duration::from_secs(10);
    let second = tokio::time::timeout(soon, ask_on(&mut socket, &mut read, String::new(), 1)).await;
    let (second, second_body) = second.expect("it does not wait for anything");
    assert!(is_of_library(&second) && second_body == plain_body, "{second:?}");
}
