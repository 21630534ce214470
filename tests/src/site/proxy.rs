//! A proxy of HTTP: CONNECT, and requests with whole URLs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::World;

/// A proxy in the world.
#[derive(Debug)]
pub struct Proxy {
    asked: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    at: SocketAddrV4,
    thread: Option<std::thread::JoinHandle<()>>,
    world: std::fs::File,
}

impl Proxy {
    /// Listens there, and knows these names.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(world: &World, at: SocketAddrV4, names: &[(&str, Ipv4Addr)]) -> Self {
        let names: Arc<BTreeMap<String, Ipv4Addr>> = Arc::new(
            names
                .iter()
                .map(|(name, address)| ((*name).to_owned(), *address))
                .collect(),
        );
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let (notes, ends) = (Arc::clone(&asked), Arc::clone(&over));
        let namespace = world.namespace();
        let (listens, listening) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            World::enter(&namespace);
            let listener = TcpListener::bind(at).expect("the proxy's port");
            listens.send(()).expect("somebody waits for it");
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (notes, names) = (Arc::clone(&notes), Arc::clone(&names));
                // Ends with its connections, which end with the machine.
                std::thread::spawn(move || {
                    let _ = serve(stream, &notes, &names);
                });
            }
        });
        listening.recv().expect("the proxy listens");
        Self {
            asked,
            over,
            at,
            thread: Some(thread),
            world: world.namespace(),
        }
    }

    /// What it was asked for so far: method and target of each request.
    ///
    /// # Panics
    /// When one of its threads did.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("the proxy's notes").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let (at, world) = (self.at, self.world.try_clone());
        // Wakes the listener.
        let _ = std::thread::spawn(move || {
            if let Ok(world) = world {
                World::enter(&world);
                let _ = TcpStream::connect(at);
            }
        })
        .join();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    client: TcpStream,
    notes: &Mutex<Vec<String>>,
    names: &BTreeMap<String, Ipv4Addr>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        headers.push(line);
    }
    let mut words = first.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(());
    };
    let note = format!("{method} {target}");
    notes.lock().expect("the proxy's notes").push(note);
    let mut client = client;
    let (place, path) = match target.strip_prefix("http://") {
        Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
        None => (target, ""),
    };
    let (host, port) = place.split_once(':').unwrap_or((place, "80"));
    let address = names.get(host).copied().or_else(|| host.parse().ok());
    let (Some(address), Ok(port)) = (address, port.parse::<u16>()) else {
        return client.write_all(b"HTTP/1.1 502 Unknown host\r\nContent-Length: 0\r\n\r\n");
    };
    let mut server = TcpStream::connect((address, port))?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    } else {
        // One request for each connection.
        headers.retain(|line| !line.to_lowercase().starts_with("connection:"));
        let headers = headers.concat();
        let request = format!("{method} /{path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        server.write_all(request.as_bytes())?;
    }
    let (mut from_server, mut to_client) = (server.try_clone()?, client);
    let back = std::thread::spawn(move || {
        let _ = copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
    let _ = copy(&mut reader.by_ref(), &mut server);
    let _ = server.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}
