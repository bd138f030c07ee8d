"""Why a program was refused, in words: the failing path, its causes, what to write instead."""
