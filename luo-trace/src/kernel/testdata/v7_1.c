/* The layouts of Linux 7.1: as 7.0, with a callback more, and KHO's radix tree by pages. */
#include "common.h"

struct liveupdate_file_handler {
	const struct liveupdate_file_ops *ops;
	const char compatible[48];
	struct list_head list;
	struct list_head flb_list;
};

struct liveupdate_file_op_args {
	struct liveupdate_file_handler *handler;
	int retrieve_status;
	struct file *file;
	u64 serialized_data;
	void *private_data;
};

struct liveupdate_file_ops {
	bool (*can_preserve)(struct liveupdate_file_handler *handler, struct file *file);
	int (*preserve)(struct liveupdate_file_op_args *args);
	void (*unpreserve)(struct liveupdate_file_op_args *args);
	int (*freeze)(struct liveupdate_file_op_args *args);
	void (*unfreeze)(struct liveupdate_file_op_args *args);
	int (*retrieve)(struct liveupdate_file_op_args *args);
	bool (*can_finish)(struct liveupdate_file_op_args *args);
	void (*finish)(struct liveupdate_file_op_args *args);
	unsigned long (*get_id)(struct file *file);
	void *owner;
};

struct luo_file {
	struct liveupdate_file_handler *fh;
	struct file *file;
	u64 serialized_data;
	void *private_data;
	int retrieve_status;
	struct mutex mutex;
	struct list_head list;
	u64 token;
};

struct luo_file_set {
	struct list_head files_list;
	struct luo_file_ser *files;
	u64 count;
};

struct luo_session {
	char name[64];
	struct luo_session_ser *ser;
	struct list_head list;
	bool retrieved;
	struct luo_file_set file_set;
	struct mutex mutex;
};

#include "flb.h"

AT(luo_session, file_set, 96);
AT(luo_file, retrieve_status, 32);
AT(luo_file, list, 64);
AT(liveupdate_file_op_args, retrieve_status, 8);
AT(liveupdate_file_handler, flb_list, 72);
AT(liveupdate_file_ops, finish, 56);
AT(liveupdate_file_ops, get_id, 64);

FUNCTIONS_OF_ALL
struct kho_radix_tree {
	void *root;
	struct mutex lock;
};

struct kho_out {
	void *fdt;
	struct mutex lock;
	struct kho_radix_tree radix_tree;
};

AT(kho_out, radix_tree, 32);

FUNCTION(kho_radix_add_page, struct kho_radix_tree *tree, u64 pfn, u32 order)
FUNCTION(kho_radix_del_page, struct kho_radix_tree *tree, u64 pfn, u32 order)
