//! What LVM reports: rows of JSON, every value a text.

use serde::Deserialize;

use super::process::is_noise;
use crate::said::shown;

/// A logical volume, as far as it was asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lv {
    /// Its name in its volume group.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The thin pool that it is in; empty for none.
    pub pool: String,
    /// What it is a snapshot of, if that is still there.
    pub origin: String,
    /// When it was made, in seconds since 1970.
    pub time: i64,
    /// How much of it, or of a pool's data, is mapped, in percent; `None` without a device in the kernel, which alone knows.
    pub data_percent: Option<f64>,
    /// Somebody has it open.
    pub is_open: bool,
    /// The kinds and states, a letter each.
    pub attributes: String,
    /// Of a thin pool: its metadata's size and use.
    pub metadata: Option<(u64, f64)>,
    /// Of a thin pool: what is mapped at a time.
    pub chunk: u64,
    /// Of a thin pool: whether what a new chunk had before is wiped.
    pub zeroes: bool,
    /// Of the volume group: the unit of sizes.
    pub extent: u64,
}

impl Lv {
    /// Whether it is one; of a report of a thin pool.
    pub(super) fn is_thin_pool(&self) -> bool {
        self.attributes.starts_with('t')
    }
}

/// The object that each command of LVM's shell ends with, and each report.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reply {
    #[serde(default)]
    report: Vec<Section>,
    #[serde(default)]
    log: Vec<LogLine>,
}

#[derive(Debug, Default, Deserialize)]
struct Section {
    #[serde(default)]
    lv: Vec<Row>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    lv_name: String,
    lv_size: String,
    pool_lv: String,
    origin: String,
    lv_time: String,
    data_percent: String,
    lv_device_open: String,
    lv_attr: String,
    lv_metadata_size: String,
    metadata_percent: String,
    chunk_size: String,
    zero: String,
    vg_extent_size: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogLine {
    log_type: String,
    log_object_type: String,
    log_message: String,
    log_ret_code: String,
}

impl Reply {
    pub(super) fn lvs(self) -> Vec<Lv> {
        self.report.into_iter().flat_map(|section| section.lv).map(Row::lv).collect()
    }

    /// Whether the command succeeded; `None` if the object does not say.
    pub(super) fn succeeded(&self) -> Option<bool> {
        let last =
            self.log.iter().rev().find(|line| line.log_type == "status" && line.log_object_type == "cmd")?;
        Some(last.log_ret_code == "1")
    }

    /// What it complained about.
    pub(super) fn complaints(&self) -> String {
        let said = self.log.iter().filter(|line| matches!(line.log_type.as_str(), "error" | "warn"));
        let said = said.map(|line| line.log_message.trim()).filter(|line| !is_noise(line));
        said.map(shown).collect::<Vec<_>>().join("; ")
    }
}

impl Row {
    fn lv(self) -> Lv {
        let bytes = |text: &str| text.trim_end_matches('B').parse().unwrap_or(0);
        let percent = |text: &str| text.parse().ok();
        Lv {
            size: bytes(&self.lv_size),
            time: self.lv_time.parse().unwrap_or(0),
            data_percent: percent(&self.data_percent),
            is_open: matches!(self.lv_device_open.as_str(), "open" | "1"),
            metadata: percent(&self.metadata_percent).map(|used| (bytes(&self.lv_metadata_size), used)),
            chunk: bytes(&self.chunk_size),
            zeroes: matches!(self.zero.as_str(), "zero" | "1"),
            extent: bytes(&self.vg_extent_size),
            name: self.lv_name,
            // Brackets mark LVs that LVM hides.
            pool: self.pool_lv.trim_matches(['[', ']']).to_owned(),
            origin: self.origin.trim_matches(['[', ']']).to_owned(),
            attributes: self.lv_attr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_with_units_or_without() {
        let json = r#"{"report":[{"lv":[
            {"lv_name":"pool00","lv_attr":"twi-aotz--","lv_size":"1073741824","data_percent":"12.50",
             "lv_metadata_size":"4194304B","metadata_percent":"10.94","chunk_size":"65536","zero":"zero","vg_extent_size":"4194304"},
            {"lv_name":"vm-a-root-snap","lv_size":"4194304B","pool_lv":"pool00","origin":"vm-a-root","lv_time":"1700000000",
             "data_percent":"","lv_device_open":"open"}
        ]}]}"#;
        let lvs = serde_json::from_str::<Reply>(json).unwrap().lvs();
        let [pool, snap] = <[Lv; 2]>::try_from(lvs).unwrap();
        assert_eq!((pool.size, pool.chunk, pool.zeroes, pool.extent), (1 << 30, 65536, true, 4 << 20));
        assert_eq!((pool.data_percent, pool.metadata), (Some(12.5), Some((4 << 20, 10.94))));
        assert_eq!((snap.data_percent, snap.is_open, pool.is_open), (None, true, false));
        assert_eq!((snap.origin.as_str(), snap.time, snap.metadata), ("vm-a-root", 1_700_000_000, None));
    }

    #[test]
    fn a_reply_of_the_shell_tells_success_and_complaints() {
        let json = r#"{"log":[
            {"log_type":"error","log_object_type":"lv","log_message":"Failed to find logical volume \"vg/a\"","log_ret_code":"0"},
            {"log_type":"status","log_object_type":"vg","log_message":"failure","log_ret_code":"5"},
            {"log_type":"status","log_object_type":"cmd","log_message":"failure","log_ret_code":"5"}]}"#;
        let reply: Reply = serde_json::from_str(json).unwrap();
        assert_eq!(reply.succeeded(), Some(false));
        assert_eq!(reply.complaints(), "Failed to find logical volume \"vg/a\"");
        let reply: Reply = serde_json::from_str(
            r#"{"report":[{"lv":[]}],"log":[{"log_type":"status","log_object_type":"cmd","log_ret_code":"1"}]}"#,
        )
        .unwrap();
        assert_eq!(reply.succeeded(), Some(true));
        assert_eq!(serde_json::from_str::<Reply>(r#"{"log":[]}"#).unwrap().succeeded(), None);
    }
}
