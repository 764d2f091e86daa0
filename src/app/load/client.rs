//! A small HTTP/1.1 client: one connection, one request at a time.

use crate::error::{Error, Kind, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use std::fmt::Display;
use tokio::net::TcpStream;

/// Where a server is.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// Host and port.
    authority: String,
    /// What stands before every route.
    prefix: String,
}

impl Address {
    /// Reads `http://host[:port][/prefix]`.
    ///
    /// # Errors
    /// Another scheme, or no host.
    pub fn parse(url: &str) -> Result<Address> {
        let wrong = |why: &str| Error::usage(format!("{url}: {why}; such as http://127.0.0.1:8000"));
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err(wrong("https is not spoken here, talk to the server itself")),
            Some(_) => return Err(wrong("it must begin with http://")),
            None => url,
        };
        let (authority, prefix) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p.trim_end_matches('/')));
        if authority.is_empty() || authority.contains(char::is_whitespace) || authority.contains('@') {
            return Err(wrong("there is no host in it"));
        }
        let bare = authority.rsplit(']').next().is_some_and(|end| !end.contains(':'));
        let authority = if bare { format!("{authority}:80") } else { authority.to_string() };
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Address { authority, prefix })
    }
}

/// An open connection.
pub struct Connection {
    address: Address,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// # Errors
    /// Nobody listens there.
    pub async fn open(address: &Address) -> Result<Connection> {
        let failed = |e: &dyn Display| Error::new(Kind::Io, format!("cannot reach {}: {e}", address.authority));
        let stream = TcpStream::connect(&address.authority).await.map_err(|e| failed(&e))?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        tokio::spawn(async move {
            // What breaks it shows at the next request.
            let _ = connection.await;
        });
        Ok(Connection { address: address.clone(), sender })
    }

    /// Sends a request (`POST` if there is a body) and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, route: &str, key: Option<&str>, body: Option<Bytes>) -> Result<(u16, Bytes)> {
        let broke = |e: hyper::Error| Error::new(Kind::Io, format!("the connection broke: {e}"));
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{route}", self.address.prefix))
            .header(header::HOST, &self.address.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|e| Error::usage(format!("{route}: the request cannot be written: {e}")))?;
        self.sender.ready().await.map_err(broke)?;
        let response = self.sender.send_request(request).await.map_err(broke)?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await.map_err(broke)?.to_bytes()))
    }
}

/// One `GET` on a connection of its own.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::send`].
pub async fn get(address: &Address, route: &str) -> Result<(u16, Bytes)> {
    Connection::open(address).await?.send(route, None, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |url: &str| Address::parse(url).map(|a| (a.authority, a.prefix)).map_err(|e| e.to_string());
        assert_eq!(parse("http://a:80/x/"), Ok(("a:80".into(), "/x".into())));
        assert_eq!(parse("a"), Ok(("a:80".into(), String::new())));
        assert_eq!(parse("http://[::1]:9"), Ok(("[::1]:9".into(), String::new())));
        assert_eq!(parse("http://[::1]"), Ok(("[::1]:80".into(), String::new())));
        for wrong in ["https://a", "http://", "ftp://a", "http://a b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
