/* SPDX-License-Identifier: MIT */
/*
 * Helpers, sections and maps of the "BPF request" ABIs of 2021.
 *
 * -DIOURING_PROFILE=N chooses the numbering (docs/abi-2021.md):
 *
 *      N   profile    submit emit reap copy_to_user   section      waits by
 *      1   v1            163    -    -      -         iouring/     can not wait
 *      2   v2            164  165  166    167         iouring.s/   wait_nr != 0
 *     21   v2-futex      165  166  167    164         iouring.s/   wait_nr != 0
 *     30   v3base        170  171  172    169         iouring      wait_nr != 0
 *      3   v3            170  171  172    169         iouring      return WAIT
 *
 * -DLEGACY_MAPS=1 puts maps into the old `maps` section instead of the BTF-described `.maps`.
 * -DNAMED_SECTIONS=1 gives every program its own section, `iouring.s/name` or `iouring/name`.
 */
#ifndef IOURING_BPF_H
#define IOURING_BPF_H

#include "iouring_abi.h"

#ifndef IOURING_PROFILE
#error "compile with -DIOURING_PROFILE=1, 2, 21, 3 or 30"
#endif

#if IOURING_PROFILE == 1
#define ID_SUBMIT 163
#elif IOURING_PROFILE == 2
#define ID_SUBMIT 164
#define ID_EMIT 165
#define ID_REAP 166
#define ID_COPY_TO_USER 167
#elif IOURING_PROFILE == 21
#define ID_COPY_TO_USER 164
#define ID_SUBMIT 165
#define ID_EMIT 166
#define ID_REAP 167
#elif IOURING_PROFILE == 3 || IOURING_PROFILE == 30
#define ID_COPY_TO_USER 169
#define ID_SUBMIT 170
#define ID_EMIT 171
#define ID_REAP 172
#else
#error "unknown IOURING_PROFILE"
#endif

#define PROFILE_IS_V3 (IOURING_PROFILE == 3 || IOURING_PROFILE == 30)
#define HAS_CQE_SKIP PROFILE_IS_V3

/* --- sections ------------------------------------------------------------------------------ */

#define SEC(name) __attribute__((section(name), used))

#if PROFILE_IS_V3
#define SECTION_SHARED "iouring"
#define SECTION_NAMED "iouring/"
#elif IOURING_PROFILE == 1
#define SECTION_SHARED "iouring/"
#define SECTION_NAMED "iouring/"
#else
#define SECTION_SHARED "iouring.s/"
#define SECTION_NAMED "iouring.s/"
#endif

#if defined(NAMED_SECTIONS) && NAMED_SECTIONS
#define RING_PROG(name) SEC(SECTION_NAMED #name) int name(struct io_uring_bpf_ctx *ctx)
#else
#define RING_PROG(name) SEC(SECTION_SHARED) int name(struct io_uring_bpf_ctx *ctx)
#endif

#define LICENSE(text) char license_text[] SEC("license") = text

#define inline_always static inline __attribute__((always_inline))

/* Hides a value from the optimiser: what follows is not specialised for it. */
#define opaque(value) asm volatile("" : "+r"(value))

/* --- maps ---------------------------------------------------------------------------------- */

#define MAP_ARRAY 2
#define MAP_MMAPABLE (1 << 10)

#if defined(LEGACY_MAPS) && LEGACY_MAPS
struct legacy_map {
	u32 type;
	u32 key_size;
	u32 value_size;
	u32 max_entries;
	u32 map_flags;
};
#define ARRAY_OF(name, value_type, entries, flags)                                             \
	struct legacy_map name SEC("maps") = {                                                 \
		MAP_ARRAY, sizeof(u32), sizeof(value_type), entries, flags,                    \
	}
#else
/* BTF carries numbers as the length of an array that a member points to. */
#define BTF_NUMBER(member, number) int(*member)[number]
#define BTF_TYPE(member, type) type *member
#define ARRAY_OF(name, value_type, entries, flags)                                             \
	struct {                                                                               \
		BTF_NUMBER(type, MAP_ARRAY);                                                   \
		BTF_TYPE(key, u32);                                                            \
		BTF_TYPE(value, value_type);                                                   \
		BTF_NUMBER(max_entries, entries);                                              \
		BTF_NUMBER(map_flags, flags);                                                  \
	} name SEC(".maps")
#endif

/* --- helpers ------------------------------------------------------------------------------- */

#define HELPER(id, result, name, ...) static result (*const name)(__VA_ARGS__) = (void *)(id)

HELPER(1, void *, map_lookup, void *map, const void *key);
HELPER(5, u64, clock_ns, void);
HELPER(148, long, copy_from_user, void *dst, u32 size, const void *user_src);

/* 1 accepted, 0 bad (its CQE says why), -errno. In v1: 0 accepted, -errno bad and no CQE. */
HELPER(ID_SUBMIT, long, submit_bytes, struct io_uring_bpf_ctx *, const void *sqe, u32 bytes);

inline_always long submit(struct io_uring_bpf_ctx *ctx, const struct io_uring_sqe *sqe)
{
	return submit_bytes(ctx, sqe, sizeof(*sqe));
}

#if IOURING_PROFILE != 1
HELPER(ID_EMIT, long, emit, struct io_uring_bpf_ctx *, u32 cq, u64 user_data, s32 res, u32 flags);
HELPER(ID_REAP, long, reap_bytes, struct io_uring_bpf_ctx *, u32 cq, void *cqe, u32 bytes);
HELPER(ID_COPY_TO_USER, long, copy_to_user, void *user_dst, const void *src, u32 size);

inline_always long reap(struct io_uring_bpf_ctx *ctx, u32 cq, struct io_uring_cqe *cqe)
{
	return reap_bytes(ctx, cq, cqe, sizeof(*cqe));
}

/* --- ending a run -------------------------------------------------------------------------- */

#if IOURING_PROFILE == 3
#define RETURN_WAIT 1
#else
#define RETURN_WAIT 0
#endif

#if IOURING_CORE
#define ctx_set(ctx, field, value) ((ctx)->field = (value))
#else
/* volatile: two plain u32 stores side by side would be merged into a u64 store, which the
 * context does not allow. */
#define ctx_set(ctx, field, value) (*(volatile u32 *)&(ctx)->field = (value))
#endif

/* `return wait_for(...)`: run the program again when CQ `cq` holds `nr` completions. */
inline_always int wait_for(struct io_uring_bpf_ctx *ctx, u32 cq, u32 nr)
{
	ctx_set(ctx, wait_idx, cq);
	ctx_set(ctx, wait_nr, nr);
	return RETURN_WAIT;
}

/* `return finish(...)`: the request is done. Says so even where wait_nr outlives a run. */
inline_always int finish(struct io_uring_bpf_ctx *ctx)
{
	ctx_set(ctx, wait_nr, 0);
	return 0;
}
#endif /* IOURING_PROFILE != 1 */

/* Element `index` of a map of u64, or a run that ends when there is none. */
inline_always u64 *slot(void *map, u32 index)
{
	return map_lookup(map, &index);
}

#endif
