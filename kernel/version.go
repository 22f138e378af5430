package kernel

import "github.com/cilium/ebpf"

// version is what differs between versions of Lictor that meet in one bpffs
// directory. Tests make others.
type version struct {
	load    func() (*ebpf.CollectionSpec, error)
	layouts map[string]int // of every map
	// decoders read entries of former layouts of vips. Without one for a layout
	// that is found, it is refused.
	decoders map[int]func(key, value []byte) (VIP, error)
}

var thisVersion = version{
	load: loadLictor,
	layouts: map[string]int{
		lictorMapVips:           int(lictorLayoutLAYOUT_VIPS),
		lictorMapVipState:       int(lictorLayoutLAYOUT_VIP_STATE),
		lictorMapInflight:       int(lictorLayoutLAYOUT_INFLIGHT),
		lictorMapServerState:    int(lictorLayoutLAYOUT_SERVER_STATE),
		lictorMapServerCounters: int(lictorLayoutLAYOUT_SERVER_COUNTERS),
		lictorMapServerLatency:  int(lictorLayoutLAYOUT_SERVER_LATENCY),
		lictorMapReasons:        int(lictorLayoutLAYOUT_REASONS),
		lictorMapSocks:          int(lictorLayoutLAYOUT_SOCKS),
		lictorMapEvents:         int(lictorLayoutLAYOUT_EVENTS),
		lictorMapMeta:           int(lictorLayoutLAYOUT_META),
	},
}
