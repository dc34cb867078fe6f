/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A kernel whose LUO speaks an ABI that no other kernel knows. This comes
 * before what luo_core.c includes, so the name that the kernel's own header
 * gives is taken away before it is used.
 */
#include <linux/kho/abi/luo.h>

#undef LUO_ABI_COMPATIBLE
#define LUO_ABI_COMPATIBLE	"luo-v0"
