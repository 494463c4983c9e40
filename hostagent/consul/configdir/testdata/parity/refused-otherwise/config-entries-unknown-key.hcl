config_entries {
  bootstrap {
    kind    = "service-defaults"
    name    = "web"
    prtocol = "http"
  }
}
