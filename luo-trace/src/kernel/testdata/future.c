/*
 * A kernel that does not exist: members in another order, others between them, some in structures without a name, types
 * behind other names, callbacks with qualifiers. Everything is still there under its name; one function is gone.
 */
#include "common.h"

struct liveupdate_file_handler {
	struct list_head flb_list;
	u64 generation;
	struct list_head list;
	const char compatible[48];
	const struct liveupdate_file_ops *ops;
};

typedef u64 luo_data_t;

struct liveupdate_file_op_args {
	void *private_data;
	struct {
		u32 version;
		struct {
			luo_data_t serialized_data;
			struct file *const file;
		};
	};
	union {
		int retrieve_status;
		u64 result;
	};
	struct liveupdate_file_handler *const handler;
};

typedef struct liveupdate_file_op_args file_args_t;
typedef const file_args_t *const volatile file_args_ptr_t;

struct liveupdate_file_ops {
	void *owner;
	unsigned long (*get_id)(struct file *file);
	int (*quiesce)(struct liveupdate_file_op_args *args);
	void (*finish)(struct liveupdate_file_op_args *args);
	bool (*can_finish)(struct liveupdate_file_op_args *args);
	int (*retrieve)(struct liveupdate_file_op_args *args);
	void (*unfreeze)(struct liveupdate_file_op_args *args);
	int (*freeze)(struct liveupdate_file_op_args *args);
	void (*unpreserve)(struct liveupdate_file_op_args *args);
	int (*preserve)(struct liveupdate_file_op_args *args);
};

struct luo_file {
	u64 token;
	u32 flags : 3;
	u32 more : 29;
	struct list_head list;
	int retrieve_status;
	void *private_data;
	luo_data_t serialized_data;
	struct file *file;
	struct liveupdate_file_handler *fh;
};

struct luo_file_set {
	u64 count;
	u64 limit;
	struct list_head files_list;
};

struct luo_session {
	struct luo_file_set file_set;
	/* It became one bit of several: it has no place of its own that could be read. */
	u32 retrieved : 1;
	u32 sealed : 1;
	struct list_head list;
	char name[128];
};

#include "flb.h"

AT(luo_session, file_set, 0);
AT(luo_session, name, 56);
AT(luo_file_set, files_list, 16);
AT(luo_file_set, count, 0);
AT(luo_file, fh, 64);
AT(luo_file, token, 0);
AT(liveupdate_file_op_args, serialized_data, 16);
AT(liveupdate_file_op_args, file, 24);
AT(liveupdate_file_op_args, retrieve_status, 32);
AT(liveupdate_file_op_args, handler, 40);
AT(liveupdate_file_handler, compatible, 40);
AT(liveupdate_file_ops, preserve, 72);

#define luo_file_freeze luo_files_freeze_all
FUNCTIONS_OF_ALL

FUNCTION(vfio_luo_preserve, file_args_ptr_t args)
/* These are no callbacks. */
FUNCTION(luo_two, struct liveupdate_file_op_args *args, int more)
FUNCTION(luo_value, struct liveupdate_file_op_args args)
FUNCTION(luo_none, void)
