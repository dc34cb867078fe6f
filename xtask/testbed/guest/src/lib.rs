//! What the virtual machine runs, and the scenario language it shares with xtask.
