//! What counts as one peer where shares are by address.

use std::net::{IpAddr, Ipv6Addr};

/// The first 64 bits of an IPv6 address: what a provider gives to one customer.
const PREFIX: u128 = !(u64::MAX as u128);

/// The IPv4 address, or the IPv6 network of 64 bits: whoever has one address of it has all.
pub fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & PREFIX).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_counts_by_address_and_ipv6_by_its_first_half() {
        for (address, network) in [
            ("10.0.0.7", "10.0.0.7"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(network_of(parse(address)), parse(network));
        }
    }
}
