//! Server reflection, as tools ask for it that have no proto file.

use crate::support::callers;
use std::path::Path;
use tokio_stream::once;
use tonic_reflection::pb::{v1, v1alpha};
use undertone::app::{self, ServerRole};
use undertone::config;
use undertone::telephony::connection::TelephonyChannel;

const CONTRACT: &str = "undertone.telephony.v1.Telephony";

#[tokio::test(flavor = "multi_thread")]
async fn gateway_and_backend_describe_the_contract_to_tools_of_either_version() {
    let folder = tempfile::tempdir().unwrap();
    for role in [ServerRole::Serve, ServerRole::SipBackend] {
        let any = "127.0.0.1:0";
        let text = format!(
            "state_dir = '{}'\n[rest]\nbind = '{any}'\n[grpc]\nbind = '{any}'\n[admin]\n\
             bind = '{any}'\n[sip_backend]\ngrpc_bind = '{any}'\nadmin_bind = '{any}'\n\
             [sip]\nlisten = ['udp:{any}']\ngrace = 0\n",
            folder.path().join(format!("{role:?}")).display()
        );
        let mut config = config::parse(Some((Path::new("test.toml"), &text)), []).unwrap();
        config.media.ports = None;
        let running = app::start(config, role, None).await.unwrap();
        let url = format!("http://{}", running.grpc());
        let token = folder.path().join(format!("{role:?}")).join("grpc-token");
        let channel = callers::channel(&url, &token);
        for files in [by_v1(channel.clone()).await, by_v1alpha(channel).await] {
            let descriptors = files.concat();
            for said in [CONTRACT.rsplit('.').next().unwrap(), "StartMonitoring", "WatchResponse"] {
                let there = descriptors.windows(said.len()).any(|bytes| bytes == said.as_bytes());
                assert!(there, "{role:?} does not describe {said}");
            }
        }
        running.stop().await;
    }
}

async fn by_v1(channel: TelephonyChannel) -> Vec<Vec<u8>> {
    use v1::server_reflection_request::MessageRequest::{FileContainingSymbol, ListServices};
    use v1::server_reflection_response::MessageResponse;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = Vec::new();
    for asked in [ListServices(String::new()), FileContainingSymbol(CONTRACT.into())] {
        let request =
            v1::ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
        let stream = client.server_reflection_info(once(request)).await;
        let answer = stream.unwrap().into_inner().message().await.unwrap().unwrap();
        answers.push(answer.message_response.unwrap());
    }
    let MessageResponse::ListServicesResponse(listed) = &answers[0] else {
        panic!("no list: {:?}", answers[0]);
    };
    assert!(listed.service.iter().any(|service| service.name == CONTRACT), "{listed:?}");
    let MessageResponse::FileDescriptorResponse(files) = &answers[1] else {
        panic!("no file: {:?}", answers[1]);
    };
    files.file_descriptor_proto.clone()
}

async fn by_v1alpha(channel: TelephonyChannel) -> Vec<Vec<u8>> {
    use v1alpha::server_reflection_request::MessageRequest::{FileContainingSymbol, ListServices};
    use v1alpha::server_reflection_response::MessageResponse;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = Vec::new();
    for asked in [ListServices(String::new()), FileContainingSymbol(CONTRACT.into())] {
        let request =
            v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
        let stream = client.server_reflection_info(once(request)).await;
        let answer = stream.unwrap().into_inner().message().await.unwrap().unwrap();
        answers.push(answer.message_response.unwrap());
    }
    let MessageResponse::ListServicesResponse(listed) = &answers[0] else {
        panic!("no list: {:?}", answers[0]);
    };
    assert!(listed.service.iter().any(|service| service.name == CONTRACT), "{listed:?}");
    let MessageResponse::FileDescriptorResponse(files) = &answers[1] else {
        panic!("no file: {:?}", answers[1]);
    };
    files.file_descriptor_proto.clone()
}
