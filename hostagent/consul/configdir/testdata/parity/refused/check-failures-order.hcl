service {
  name = "web"
  port = 8080
  check {
    tcp                      = "127.0.0.1:8080"
    interval                 = "10s"
    failures_before_warning  = 5
    failures_before_critical = 3
  }
}
