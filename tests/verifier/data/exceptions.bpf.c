/* Programs that throw, with an exception callback and without.
 * clang-19 -target bpf -O2 -g -c exceptions.bpf.c -o exceptions.bpf.o */
struct __sk_buff;
#define SEC(name) __attribute__((section(name), used))

extern void bpf_throw(unsigned long cookie) __attribute__((section(".ksyms")));

__attribute__((noinline)) int catcher(unsigned long cookie)
{
	return cookie & 1;
}

SEC("cgroup_skb/ingress")
__attribute__((btf_decl_tag("exception_callback:catcher"))) int caught(struct __sk_buff *ctx)
{
	bpf_throw(77);
	return 0;
}

SEC("cgroup_skb/ingress")
int uncaught(struct __sk_buff *ctx)
{
	bpf_throw(77);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
