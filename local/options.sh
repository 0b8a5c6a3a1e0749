# shellcheck shell=bash disable=SC2034,SC2154
# One list of options: parsing, --help and the error of an unknown option all come from it.
#
# The script that sources this file defines
#   option_list=(                       # in the order of --help
#       "# heading"
#       "name|default|help"
#   )
# and calls `parse_options "$@"`; the values are then in ${opt[name]}. --a-b equals --a_b, and
# --name=value equals --name value. A default `true` or `false` makes an option take these two only,
# a default
# that is a whole number makes it take whole numbers only, one with a point any number.

declare -gA opt=()
declare -gA opt_default=()

# Writes the help page to stdout.
print_options() {
    local line name default text
    printf 'Usage: ./run.sh [options]\n'
    for line in "${option_list[@]}"; do
        if [[ ${line} == "#"* ]]; then
            printf '\n%s\n' "${line#\# }"
            continue
        fi
        IFS='|' read -r name default text <<< "${line}"
        printf '  --%-22s %s%s\n' "${name}" "${text}" "${default:+ (${default})}"
    done
}

# Prints an error about the command line and leaves with 2.
option_error() {
    echo "${0##*/}: error: $1 (./run.sh --help lists all options)" >&2
    exit 2
}

# Checks one value against what its default says about its type.
check_option() {
    local name=$1 value=$2 default=${opt_default[$1]}
    case ${default} in
        true | false)
            [[ ${value} == true || ${value} == false ]] ||
                option_error "--${name} is true or false, found '${value}'"
            ;;
        *[!0-9.]* | "") ;;
        *.*)
            [[ ${value} =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
                option_error "--${name} is a number, found '${value}'"
            ;;
        *)
            [[ ${value} =~ ^(0|[1-9][0-9]*)$ ]] ||
                option_error "--${name} is a whole number, found '${value}'"
            ;;
    esac
}

# Fills ${opt[...]} from the defaults and then from the command line.
parse_options() {
    local line name default value
    for line in "${option_list[@]}"; do
        [[ ${line} == "#"* ]] && continue
        IFS='|' read -r name default _ <<< "${line}"
        opt[${name}]=${default}
        opt_default[${name}]=${default}
    done
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                print_options
                exit 0
                ;;
            --?*) ;;
            *) option_error "expected an option, found '$1'" ;;
        esac
        name=${1#--}
        name=${name%%=*}
        name=${name//-/_}
        [ "${name}" = corpus ] && name=corpora
        [ -n "${opt_default[${name}]+known}" ] || option_error "unknown option '$1'"
        if [[ $1 == *=* ]]; then
            value=${1#*=}
        else
            [ $# -ge 2 ] || option_error "--${name} needs a value"
            value=$2
            shift
        fi
        shift
        check_option "${name}" "${value}"
        opt[${name}]=${value}
    done
}
