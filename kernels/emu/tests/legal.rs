//! Legal idioms give the right numbers in both flavours under every seed, and no report.

mod device;

use device::{Device, blocks};
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
