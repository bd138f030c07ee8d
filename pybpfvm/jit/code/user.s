; Copies from and to user memory as BPF of our own: unchecked, on true addresses. r6 is a block of
; words, of which only @BLOCKS matters: see userblocks. What no block holds is Python's.

; --- from_user(dst, size, user) --------------------------------------------------------------

from_user:  r7 = r1
            r8 = r2
            r9 = r3
            r2 = r9
            w3 = w8
            r4 = r9
            call transfer
            if r0 == 0 goto from_done
            r1 = r7
            r2 = r8
            r3 = r9
            call 7
from_done:  exit

; --- to_user(user, src, size) ----------------------------------------------------------------

to_user:    r7 = r1
            r8 = r2
            r9 = r3
            w3 = w9
            r4 = r7
            call transfer
            if r0 == 0 goto to_done
            r1 = r7
            r2 = r8
            r3 = r9
            call 8
to_done:    exit

; --- transfer(to, from, bytes, user): 0 if one block of user memory holds `bytes` at `user` ------

transfer:   r5 = r4
            r5 += r3
            if r5 < r4 goto foreign_to
            r0 = *(u64 *)(r6 + @BLOCKS)
within:     r8 = *(u64 *)(r0 + 8)
            if r8 == 0 goto foreign_to
            if r5 > r8 goto next_block
            r8 = *(u64 *)(r0 + 0)
            if r4 >= r8 goto words
next_block: r0 += 16
            goto within
words:      if r3 < 8 goto bytes
            r0 = *(u64 *)(r2 + 0)
            *(u64 *)(r1 + 0) = r0
            r1 += 8
            r2 += 8
            r3 += -8
            goto words
bytes:      if r3 == 0 goto copied
            r0 = *(u8 *)(r2 + 0)
            *(u8 *)(r1 + 0) = r0
            r1 += 1
            r2 += 1
            r3 += -1
            goto bytes
copied:     r0 = 0
            exit
foreign_to: r0 = 1
            exit
