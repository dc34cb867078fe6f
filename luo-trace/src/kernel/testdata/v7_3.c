/* The layouts of Linux 7.2 and 7.3 that are new: blocks, and what the previous kernel leaves in them. */
#include "common.h"

struct kho_block_header_ser {
	u64 next;
	u64 count;
} __attribute__((packed));

struct kho_block {
	struct list_head list;
	struct kho_block_header_ser *ser;
};

struct kho_block_set {
	struct list_head blocks;
	long nblocks;
	u64 head_pa;
	u64 entry_size;
	u64 count_per_block;
	bool incoming;
};

struct luo_session_header {
	long count;
	struct list_head list;
	struct rw_semaphore rwsem;
	struct kho_block_set block_set;
	u64 *sessions_pa;
	bool active;
};

struct luo_session_global {
	struct luo_session_header incoming;
	struct luo_session_header outgoing;
};

struct luo_file_ser {
	char compatible[48];
	u64 data;
	u64 token;
} __attribute__((packed));

struct luo_file_set_ser {
	u64 files;
	u64 count;
} __attribute__((packed));

struct luo_session_ser {
	char name[64];
	struct luo_file_set_ser file_set_ser;
} __attribute__((packed));

struct luo_flb_header_ser {
	u64 pgcnt;
	u64 count;
} __attribute__((packed));

struct luo_flb_ser {
	char name[48];
	u64 data;
	u64 count;
} __attribute__((packed));

struct luo_flb_header {
	struct luo_flb_header_ser *header_ser;
	struct luo_flb_ser *ser;
	bool active;
};

struct luo_flb_global {
	struct luo_flb_header incoming;
	struct luo_flb_header outgoing;
	struct list_head list;
	long count;
};

struct kho_in {
	u64 fdt_phys;
	u64 scratch_phys;
	char previous_release[65];
	u32 kexec_count;
};

AT(luo_session_header, block_set.blocks, 56);
AT(luo_session_header, block_set.nblocks, 72);
AT(luo_session_header, block_set.head_pa, 80);
AT(luo_session_ser, file_set_ser.count, 72);
AT(luo_file_ser, token, 56);
AT(kho_in, previous_release, 16);
AT(kho_in, kexec_count, 84);
_Static_assert(sizeof(struct luo_session_ser) == 80, "a session");
_Static_assert(sizeof(struct luo_file_ser) == 64, "a file");
