; Map helpers as BPF of our own: unchecked, on true addresses. The map is given as the address of
; what `natives` says of it, in place of its handle.

; --- array_lookup(map, key): the map is (elements, stride, address of the first) -------------

array_lookup:
            r0 = *(u32 *)(r2 + 0)
            r3 = *(u64 *)(r1 + 0)
            if r0 >= r3 goto null
            r3 = *(u64 *)(r1 + 8)
            r0 *= r3
            r3 = *(u64 *)(r1 + 16)
            r0 += r3
            exit
null:       r0 = 0
            exit

; --- hash_lookup(map, key): the map is (mask, first entry, bytes of an entry, bytes of a key, seed)
; pybpfvm/maps/hashindex.py describes the table.

hash_lookup:
            r6 = *(u64 *)(r1 + 24)
            r7 = r2
            r0 = *(u64 *)(r1 + 32)          ; the seed
            r5 = @MULTIPLIER ll
hash:       if r6 < 8 goto hash4
            r3 = *(u64 *)(r7 + 0)
            r4 = 8
            goto mix
hash4:      if r6 < 4 goto hash1
            r3 = *(u32 *)(r7 + 0)
            r4 = 4
            goto mix
hash1:      if r6 == 0 goto hashed
            r3 = *(u8 *)(r7 + 0)
            r4 = 1
mix:        r0 ^= r3
            r0 *= r5
            r3 = r0
            r3 >>= 32
            r0 ^= r3
            r7 += r4
            r6 -= r4
            goto hash
hashed:     r0 |= 1
            r8 = r0
            r8 >>= 8
probe:      r3 = *(u64 *)(r1 + 0)
            r3 &= r8
            r4 = *(u64 *)(r1 + 16)
            r3 *= r4
            r4 = *(u64 *)(r1 + 8)
            r3 += r4                        ; the entry
            r4 = *(u64 *)(r3 + 0)
            if r4 == r0 goto candidate
            if r4 == 0 goto none
onward:     r8 += 1
            goto probe
candidate:  r6 = *(u64 *)(r1 + 24)
            r7 = r2
            r9 = r3
same8:      if r6 < 8 goto same4
            r4 = *(u64 *)(r7 + 0)
            r5 = *(u64 *)(r9 + 16)
            if r4 != r5 goto onward
            r7 += 8
            r9 += 8
            r6 += -8
            goto same8
same4:      if r6 < 4 goto same1
            r4 = *(u32 *)(r7 + 0)
            r5 = *(u32 *)(r9 + 16)
            if r4 != r5 goto onward
            r7 += 4
            r9 += 4
            r6 += -4
same1:      if r6 == 0 goto found
            r4 = *(u8 *)(r7 + 0)
            r5 = *(u8 *)(r9 + 16)
            if r4 != r5 goto onward
            r7 += 1
            r9 += 1
            r6 += -1
            goto same1
found:      r0 = *(u64 *)(r3 + 8)
            exit
none:       r0 = 0
            exit
