//! Legal idioms give the right numbers in both flavours under every seed, and no report.

mod device;

use device::{Device, blocks, tensor_map};
use gramophone_emu::Settings;

/// Every test runs under all of these.
fn all_settings() -> impl Iterator<Item = Settings> {
    let fast = (0..5).map(|seed| Settings { seed, ..Settings::fast() });
    fast.chain((0..4).map(Settings::checked))
}

#[test]
fn elementwise() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let x: Vec<f32> = (0..3 * 200).map(|i| i as f32).collect();
        let (y, x_device) = (d.alloc(x.len() * 4), d.put(&x));
        d.run("legal_scale", blocks(3, 128), args!(y, x_device, 200i32, 0.5f32)).unwrap();
        let want: Vec<f32> = x.iter().map(|x| x * 0.5).collect();
        assert_eq!(d.get::<f32>(y, x.len()).unwrap(), want);
    }
}

#[test]
fn sum_over_a_block() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let x: Vec<f32> = (0..5 * 300).map(|i| (i % 7) as f32).collect();
        let (y, x_device) = (d.alloc(5 * 4), d.put(&x));
        d.run("legal_block_sum", blocks(5, 256), args!(y, x_device, 300i32)).unwrap();
        let want: Vec<f32> = x.chunks(300).map(|row| row.iter().sum()).collect();
        assert_eq!(d.get::<f32>(y, 5).unwrap(), want);
    }
}

#[test]
fn the_last_block_to_arrive_reduces() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let x: Vec<f32> = (0..1000).map(|i| (i % 9) as f32).collect();
        let (y, parts, counter, x_device) = (d.alloc(4), d.alloc(8 * 4), d.zeros(4), d.put(&x));
        for _ in 0..2 {
            d.run("legal_last_block_sum", blocks(8, 128), args!(y, parts, counter, x_device, 1000i32)).unwrap();
            assert_eq!(d.get::<f32>(y, 1).unwrap(), [x.iter().sum::<f32>()]);
        }
    }
}

#[test]
fn fences_around_a_relaxed_atomic() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let x: Vec<f32> = (0..500).map(|i| (i % 9) as f32).collect();
        let (y, parts, counter, x_device) = (d.alloc(4), d.alloc(512 * 4), d.zeros(4), d.put(&x));
        d.run("legal_fenced_sum", blocks(4, 128), args!(y, parts, counter, x_device, 500i32)).unwrap();
        assert_eq!(d.get::<f32>(y, 1).unwrap(), [x.iter().sum::<f32>()]);
    }
}

#[test]
fn bytes_and_counters() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let x: Vec<u8> = (0..64).map(|i| i * 7).collect();
        let (y, counts, x_device) = (d.alloc(64), d.alloc(16), d.put(&x));
        for _ in 0..2 {
            d.run("legal_bytes", blocks(1, 64), args!(y, counts, x_device)).unwrap();
        }
        let want: Vec<u8> = x.iter().rev().copied().collect();
        assert_eq!(d.get::<u8>(y, 64).unwrap(), want);
        assert_eq!(d.get::<u32>(counts, 4).unwrap(), [16; 4]);
    }
}

#[test]
fn collectives() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let y = d.alloc(96 * 4);
        d.run("legal_collectives", blocks(1, 96), args!(y)).unwrap();
        assert_eq!(d.get::<i32>(y, 96).unwrap(), [0; 96]);
    }
}

#[test]
fn producer_and_consumer() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let y = d.alloc(32 * 4);
        d.run("legal_producer", blocks(1, 64), args!(y, 9i32)).unwrap();
        let want: Vec<i32> = (0..32).map(|lane| 36 * (31 - lane)).collect();
        assert_eq!(d.get::<i32>(y, 32).unwrap(), want);
    }
}

#[test]
fn narrow_copies() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let x: Vec<f32> = (1..=20).map(|i| i as f32).collect();
        let (y, x_device) = (d.alloc(32 * 4), d.put(&x));
        d.run("legal_narrow_copies", blocks(1, 32), args!(y, x_device, 20i32)).unwrap();
        let mut want = [0f32; 32];
        for (i, x) in x.iter().enumerate() {
            want[31 - i] = *x;
        }
        assert_eq!(d.get::<f32>(y, 32).unwrap(), want);
    }
}

#[test]
fn ping_pong() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let y = d.alloc(128 * 4);
        d.run("legal_ping_pong", blocks(1, 256), args!(y, 5i32)).unwrap();
        let want = (0..5).fold(0, |v, _| v * 2 * 2 + 1);
        assert_eq!(d.get::<i32>(y, 128).unwrap(), [want; 128]);
    }
}

fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
/// Small whole numbers: their products and sums are exact.
fn matrix(rows: usize, columns: usize, salt: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| ((i * 7 + i / 13 + salt) % 9) as f32 - 4.0).collect()
}
/// a [m, k] times the transpose of b [n, k].
fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let dot = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum();
    (0..m * n).map(|e| dot(e / n, e % n)).collect()
}
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|e| x[e % rows * columns + e / rows]).collect()
}
fn put_bf16(d: &Device, x: &[f32]) -> u64 {
    d.put(&x.iter().map(|x| bf16(*x)).collect::<Vec<_>>())
}

#[test]
fn matrix_product_of_ampere() {
    let (m, n, k) = (100, 72, 88);
    let (a, b) = (matrix(m, k, 1), matrix(n, k, 2));
    let want = product(&a, &b, m, n, k);
    for settings in all_settings() {
        let d = Device::new(settings);
        let (c, a, b) = (d.alloc(m * n * 4), put_bf16(&d, &a), put_bf16(&d, &b));
        let function = d.function("legal_multiply_mma");
        d.run_grid(function, (2, 2, 1), (128, 1, 1), 0, args!(c, a, b, m as i32, n as i32, k as i32)).unwrap();
        assert_eq!(d.get::<f32>(c, m * n).unwrap(), want);
    }
}

#[test]
fn matrix_product_of_hopper() {
    let (m, n, k) = (200, 72, 328);
    let (a, b) = (matrix(m, k, 1), matrix(n, k, 2));
    let want: Vec<u16> = product(&a, &b, m, n, k).into_iter().map(bf16).collect();
    for settings in all_settings().chain([Settings { strict_wgmma: false, ..Settings::checked(2) }]) {
        for kernel in ["legal_multiply_nt", "legal_multiply_nn", "legal_multiply_registers"] {
            let d = Device::new(settings.clone());
            let c = d.alloc(m * n * 2);
            let map = |p, rows: usize, columns: usize, box_rows| {
                tensor_map(p, rows as u64, columns as u64, box_rows, 64).unwrap()
            };
            let map_a = map(put_bf16(&d, &a), m, k, 128);
            let map_b = match kernel {
                "legal_multiply_nn" => map(put_bf16(&d, &transposed(&b, n, k)), k, n, 64),
                _ => map(put_bf16(&d, &b), n, k, 64),
            };
            let arguments = args!(map(c, m, n, 128), map_a, map_b, k as i32);
            d.run_grid(d.function(kernel), (2, 2, 1), (384, 1, 1), 112 << 10, arguments).unwrap();
            assert_eq!(d.get::<u16>(c, m * n).unwrap(), want, "{kernel} {settings:?}");
        }
    }
}
