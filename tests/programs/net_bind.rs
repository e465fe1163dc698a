// SPDX-License-Identifier: MIT

// net_bind ADDRESS:PORT...: listens as Rust's standard library does. Prints `ok` or the kind of error for each.
use std::io::ErrorKind;
use std::net::TcpListener;

fn main() {
    for address in std::env::args().skip(1) {
        match TcpListener::bind(&address) {
            Ok(_) => println!("ok"),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => println!("EACCES"),
            Err(error) => println!("{error}"),
        }
    }
}
