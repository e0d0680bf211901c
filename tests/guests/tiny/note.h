/* One ELF note for Xen's loader (numbers: xen/include/public/elfnote.h); the value is one assembler directive. */
.macro xen_note number, value:vararg
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 1f - 0f, \number
    .asciz "Xen"
0:  \value
1:  .balign 4
    .popsection
.endm
