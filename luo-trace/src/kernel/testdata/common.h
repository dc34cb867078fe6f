/*
 * What the declarations of every version share: just enough of each type for the members that luo-trace reads to lie
 * where they do. Written for these tests alone; nothing here is the kernel's own text.
 */
#include <stdbool.h>
#include <stddef.h>

typedef unsigned int u32;
typedef unsigned long u64;

struct list_head {
	struct list_head *next, *prev;
};

struct mutex {
	u64 opaque[3];
};

struct rw_semaphore {
	u64 opaque[4];
};

struct super_block {
	u64 opaque[12];
	u64 s_magic;
};

struct inode {
	u64 opaque[5];
	struct super_block *i_sb;
	u64 more[3];
	u64 i_ino;
	u64 i_size;
};

struct file {
	u64 opaque[2];
	void *private_data;
	struct inode *f_inode;
};

/* The compiler checks what the tests claim. */
#define AT(structure, member, offset) _Static_assert(offsetof(struct structure, member) == (offset), #member)

/* A function that can be hooked. */
#define FUNCTION(name, ...) int name(__VA_ARGS__) { return 0; }

/* The functions that every version since 6.19 has. */
#define FUNCTIONS_OF_ALL                                                     \
	FUNCTION(luo_session_create, const char *name, struct file **filep)      \
	FUNCTION(luo_session_retrieve, const char *name, struct file **filep)    \
	FUNCTION(luo_session_release, struct inode *inode, struct file *file)    \
	FUNCTION(luo_session_deserialize, void)                                  \
	FUNCTION(luo_session_serialize, void)                                    \
	FUNCTION(luo_preserve_file, struct luo_file_set *set, u64 token, int fd) \
	FUNCTION(luo_retrieve_file, struct luo_file_set *set, u64 token, struct file **filep) \
	FUNCTION(luo_file_unpreserve_files, struct luo_file_set *set)            \
	FUNCTION(luo_file_finish, struct luo_file_set *set)                      \
	FUNCTION(luo_file_freeze, struct luo_file_set *set)                      \
	FUNCTION(kernel_kexec, void)                                             \
	FUNCTION(liveupdate_reboot, void)                                        \
	FUNCTION(memfd_luo_preserve, struct liveupdate_file_op_args *args)       \
	FUNCTION(memfd_luo_finish, struct liveupdate_file_op_args *args)
