#!/bin/sh
# Runs a test that is no GoogleTest program; where GTEST_OUTPUT is xml:FOLDER/ it leaves a JUnit file there as those do.
#   junit.sh NAME COMMAND [ARGUMENT...]
name=$1
shift
"$@"
status=$?
case ${GTEST_OUTPUT:-} in
  xml:*/)
    failure=
    [ $status -eq 0 ] || failure="<failure message=\"exit status $status\"/>"
    printf '<?xml version="1.0"?>\n<testsuite name="%s"><testcase classname="%s" name="Passes">%s</testcase></testsuite>\n' \
      "$name" "$name" "$failure" >"${GTEST_OUTPUT#xml:}$name.xml" || exit 1
    ;;
esac
exit $status
