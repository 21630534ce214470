//! What signs tokens for jobs: the address that a GitHub runner gives to jobs with `id-token: write`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};
use serde_json::{Value, json};

/// Signs tokens, for whoever shows what the runner gave to the job.
#[derive(Debug)]
pub struct IdTokens {
    /// `ACTIONS_ID_TOKEN_REQUEST_URL`
    pub url: String,
    /// `ACTIONS_ID_TOKEN_REQUEST_TOKEN`
    pub secret: String,
    signer: Arc<Signer>,
    listening: Option<(SocketAddr, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Signer {
    key: KeyPair,
    issuer: String,
    secret: String,
    claims: Value,
    now: i64,
    closed: AtomicBool,
}

impl IdTokens {
    /// Signs as `issuer` that these claims hold from `now` on, for five minutes, once
    /// [`Self::listen`] was called, in the namespace of the calling thread.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new(issuer: &str, claims: Value, now: i64) -> Self {
        let secret = "what-the-runner-gave".to_owned();
        let signer = Signer {
            key: KeyPair::generate_for(&PKCS_ED25519).expect("a key"),
            issuer: issuer.to_owned(),
            secret: secret.clone(),
            claims,
            now,
            closed: AtomicBool::new(false),
        };
        Self {
            url: String::new(),
            secret,
            signer: Arc::new(signer),
            listening: None,
        }
    }

    /// The issuer's keys.
    #[must_use]
    pub fn jwks(&self) -> String {
        let x = base64url(self.signer.key.der_bytes());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] }).to_string()
    }

    /// Begins to answer.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn listen(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for id tokens");
        let address = listener.local_addr().expect("its address");
        self.url = format!("http://{address}/token?api-version=2.0");
        let signer = self.signer.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if signer.closed.load(Ordering::SeqCst) {
                    return;
                }
                // Whoever hangs up has no use for an answer.
                let _ = signer.answer(stream);
            }
        });
        self.listening = Some((address, thread));
    }

    /// Answers no more, and listens no more.
    ///
    /// # Panics
    /// When it answered wrongly before.
    pub fn close(&mut self) {
        self.signer.closed.store(true, Ordering::SeqCst);
        if let Some((address, thread)) = self.listening.take() {
            // It looks up when somebody comes.
            let _ = TcpStream::connect(address);
            thread.join().expect("the thread that signs");
        }
    }
}

impl Signer {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let mut is_known = false;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim();
            is_known |= line
                .strip_prefix("Authorization: bearer ")
                .is_some_and(|shown| shown == self.secret);
            if line.is_empty() {
                break;
            }
        }
        let audience = request
            .split(['&', ' '])
            .find_map(|part| part.strip_prefix("audience="));
        let (status, body) = match audience {
            Some(audience) if is_known => {
                let token = self.token(audience);
                ("200 OK", json!({ "count": 1, "value": token }).to_string())
            }
            _ => ("401 Unauthorized", String::new()),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn token(&self, audience: &str) -> String {
        let mut claims = self.claims.clone();
        claims["iss"] = self.issuer.as_str().into();
        claims["aud"] = audience.into();
        claims["iat"] = self.now.into();
        claims["exp"] = (self.now + 300).into();
        let header = json!({ "alg": "EdDSA", "kid": "k", "typ": "JWT" });
        let message = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let signature = self.key.sign(message.as_bytes()).expect("a signature");
        format!("{message}.{}", base64url(&signature))
    }
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .zip([16, 8, 0])
            .fold(0_u32, |bits, (byte, shift)| {
                bits | u32::from(*byte) << shift
            });
        for place in 0..=chunk.len() {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_without_padding() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg"),
            (b"fo", "Zm8"),
            (b"foo", "Zm9v"),
            (b"\xfb\xff", "-_8"),
        ] {
            assert_eq!(base64url(bytes), text);
        }
    }
}
