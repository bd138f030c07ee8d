; Included where the SQE at r2 may be issued as it is if it is plain: goes to `slow` if it is not, to
; `admitted` if it is. What the guard asks of such requests: guard.Guard.admit. Changes r0, r1, r4, r5.

            r4 = *(u8 *)(r2 + 1)
            r0 = *(u16 *)(r2 + 2)           ; ioprio
            r5 = *(u32 *)(r2 + 28)          ; op_flags
            if r5 == 0 goto no_flags
            if r5 != 0x4000 goto slow       ; MSG_NOSIGNAL,
            r1 = *(u8 *)(r2 + 0)
            if r1 != 26 goto slow           ; of SEND, which does as if it were there
no_flags:
            r5 = *(u16 *)(r2 + 42)          ; personality
            r0 |= r5
            if r0 != 0 goto slow
            if r4 > 1 goto slow             ; FIXED_FILE alone
            r1 = *(u8 *)(r2 + 0)
            if r1 == 0 goto admitted        ; NOP
            r5 = *(u64 *)(r2 + 8)
            if r5 s< -1 goto slow           ; an offset that is refused; -1: the file's own
            if r4 == 1 goto owned
            r0 = *(u32 *)(r2 + 4)           ; fd
            if r0 >= 1024 goto slow
            r5 = r0
            r5 >>= 3
            r4 = *(u64 *)(r6 + @FDS)
            r5 += r4
            r5 = *(u8 *)(r5 + 0)
            r0 &= 7
            r5 >>= r0
            r5 &= 1
            if r5 == 0 goto slow
owned:      if r1 == 4 goto admitted        ; READ_FIXED
            if r1 == 5 goto admitted        ; WRITE_FIXED
            if r1 == 22 goto buffer         ; READ
            if r1 == 23 goto buffer         ; WRITE
            r5 = *(u64 *)(r2 + 8)
            if r5 != 0 goto slow            ; to an address, if it is SEND
            if r1 == 26 goto buffer         ; SEND
            if r1 != 27 goto slow           ; RECV
buffer:     r4 = *(u64 *)(r2 + 16)
            r5 = *(u32 *)(r2 + 24)
            r5 += r4
            if r5 < r4 goto slow
            r0 = *(u64 *)(r6 + @BLOCKS)
block:      r1 = *(u64 *)(r0 + 8)
            if r1 == 0 goto slow
            if r5 > r1 goto other
            r1 = *(u64 *)(r0 + 0)
            if r4 >= r1 goto admitted
other:      r0 += 16
            goto block
