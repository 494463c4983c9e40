config_entries {
  bootstrap {
    kind = "firewall"
    name = "x"
  }
}
