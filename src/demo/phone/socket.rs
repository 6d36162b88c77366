//! What a phone's messages go by: datagrams, or one connection over TLS to its server, made again
//! when it is needed.

use super::{PhoneConfig, PhoneTls};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::{TcpSocket, UdpSocket};
use tokio_rustls::client::TlsStream;

/// Longer messages are nobody's.
const LONGEST: usize = 65_536;

#[derive(Debug)]
pub(super) enum PhoneSocket {
    Udp(UdpSocket),
    Tls(Box<PhoneConnection>),
}

/// What has come.
#[derive(Debug)]
pub(super) enum Arrived {
    Message(Vec<u8>, SocketAddr),
    /// The connection is gone.
    Lost,
}

#[derive(Debug)]
pub(super) struct PhoneConnection {
    tls: PhoneTls,
    server: SocketAddr,
    address: SocketAddr,
    stream: Option<TlsStream<TcpStream>>,
    unread: Vec<u8>,
}

impl PhoneSocket {
    /// Opens it, and its own address.
    ///
    /// # Errors
    /// No socket, or no connection with the server that the phone expects.
    pub(super) async fn open(config: &PhoneConfig) -> io::Result<(Self, SocketAddr)> {
        match &config.tls {
            None => {
                let socket = UdpSocket::bind((config.ip, 0)).await?;
                let address = socket.local_addr()?;
                Ok((Self::Udp(socket), address))
            }
            Some(tls) => {
                let mut connection = PhoneConnection {
                    tls: tls.clone(),
                    server: config.server,
                    address: (config.ip, 0).into(),
                    stream: None,
                    unread: Vec::new(),
                };
                let stream = connection.connect().await?;
                connection.address = stream.get_ref().0.local_addr()?;
                connection.stream = Some(stream);
                let address = connection.address;
                Ok((Self::Tls(Box::new(connection)), address))
            }
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send_to(bytes, to).await.map(|_| ()),
            Self::Tls(connection) => connection.send(bytes).await,
        }
    }

    /// May be dropped at any time without losing anything.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Arrived> {
        match self {
            Self::Udp(socket) => {
                let (size, from) = socket.recv_from(buffer).await?;
                Ok(Arrived::Message(buffer[..size].to_vec(), from))
            }
            Self::Tls(connection) => Ok(connection.receive(buffer).await),
        }
    }

    /// Lets the connection go, without a word.
    pub(super) fn disconnect(&mut self) {
        if let Self::Tls(connection) = self {
            connection.let_go();
        }
    }

    /// What is lost is not sent again.
    pub(super) fn is_reliable(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl PhoneConnection {
    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let socket = match self.server {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.bind((self.address.ip(), 0).into())?;
        let stream = socket.connect(self.server).await?;
        self.tls.client.connect(&self.tls.name, stream, &[]).await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.stream.is_none() {
            self.stream = Some(self.connect().await?);
        }
        let Some(stream) = &mut self.stream else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let written = stream.write_all(bytes).await;
        let written = match written {
            Ok(()) => stream.flush().await,
            Err(error) => Err(error),
        };
        if written.is_err() {
            self.let_go();
        }
        written
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> Arrived {
        loop {
            if let Some(message) = self.next_message() {
                return Arrived::Message(message, self.server);
            }
            let Some(stream) = &mut self.stream else {
                return std::future::pending().await;
            };
            match stream.read(buffer).await {
                Ok(size @ 1..) if self.unread.len() < LONGEST => {
                    self.unread.extend_from_slice(&buffer[..size]);
                }
                Ok(_) | Err(_) => {
                    self.let_go();
                    return Arrived::Lost;
                }
            }
        }
    }

    fn let_go(&mut self) {
        self.stream = None;
        self.unread.clear();
    }

    fn next_message(&mut self) -> Option<Vec<u8>> {
        let start = self.unread.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.unread.drain(..start);
        let head = self.unread.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.unread[..head]);
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_length = name.trim().eq_ignore_ascii_case("content-length");
            is_length.then(|| value.trim().parse::<usize>().ok())?
        });
        let end = head.checked_add(length.unwrap_or_default())?;
        (end <= self.unread.len()).then(|| self.unread.drain(..end).collect())
    }
}
