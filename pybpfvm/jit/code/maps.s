; Map helpers as BPF of our own: unchecked, on true addresses. The map is given as the address of
; what `natives` says of it, in place of its handle.

            ; the ways in, in the order of natives.ENTRIES
            r0 = func array_lookup ll
            exit

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
