package kernel

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel,bpfeb -no-global-types -cflags "-O2 -g -mcpu=v3 -Wall -Werror" -type limit -type layout -type reason -type owner_kind -type hold_reason -type phase -type event_kind -type vip_key -type vip -type backend -type vip_words -type hold -type counters -type inflight_words -type server_words -type latency -type sock_info -type event -type meta_words -type sock_record lictor bpf/lictor.bpf.c
